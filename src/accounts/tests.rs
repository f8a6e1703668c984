//! Both files together, and what a change of them does.

use base64::Engine as _;

use super::*;
use crate::identity::{AuthError, Authenticator};
use crate::selector::{Username, resolve_within};
use crate::servers::Catalogue;
use tokio::sync::watch;

fn line(name: &str, password: &str) -> String {
    format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap())
}

fn users(names: &[&str]) -> Users {
    Users::parse(&names.iter().map(|name| line(name, "x")).collect::<String>()).unwrap()
}

fn accounts(names: &[&str], text: &str) -> Accounts {
    Accounts::new(&users(names), &AccountsFile::parse(text).unwrap())
}

fn account(name: &str) -> Account {
    Account::parse(name).unwrap()
}

#[test]
fn an_account_has_what_it_says_and_else_the_defaults() {
    let text = "
defaults: {max_tunnels: 5, max_idle: 1h, selector: country-se, places: {deny: [country-us]}, ports: {deny: [25]}}
groups:
  team: {max_sessions: 3}
accounts:
  alice: {max_tunnels: unlimited, places: {}, max_idle: 2h}
  bob: {share: team}
  carol: {share: team, destinations: {deny: [x.example]}}
  off: {disabled: true}
  ghost: {max_tunnels: 1}
";
    let all = accounts(&["alice", "bob", "carol", "dave", "off"], text);
    assert_eq!(all.len(), 4);
    assert!(all.policy("off").is_none() && all.policy("ghost").is_none());
    let of = |name: &str| all.policy(name).unwrap();
    assert_eq!((of("alice").max_tunnels, of("dave").max_tunnels), (None, Some(5)));
    assert!(of("alice").rules.places.is_empty() && !of("dave").rules.places.is_empty());
    assert_eq!(of("alice").limits(&Limits::default()).max_idle, Duration::from_secs(7200));
    assert_eq!(of("dave").limits(&Limits::default()).max_idle, Duration::from_secs(3600));
    let small = Limits { max_idle: Duration::from_secs(60), ..Limits::default() };
    assert_eq!(of("alice").limits(&small).max_idle, Duration::from_secs(60), "never raised");
    assert_eq!((of("bob").owner(), of("carol").owner()), (&account("team"), &account("team")));
    assert_eq!(of("carol").destinations().ports.deny, [(25, 25)], "each field by itself");
    let owners: Vec<_> =
        all.owners().iter().map(|(name, owner)| (name.as_str(), owner.max_sessions)).collect();
    assert_eq!(owners, [("alice", None), ("dave", None), ("team", Some(3))]);
    assert!(!all.owners().get(&account("team")).unwrap().places.is_empty(), "the defaults hold for groups");

    let username = Username::parse("bob-session-a").unwrap();
    let list = r#"[{"vpn":"wireguard","country":"Sweden","city":"","hostname":"se-1"}]"#;
    let catalogue = Catalogue::parse(list).unwrap();
    let policy = of("bob");
    let key = resolve_within(&username, &catalogue, &Limits::default(), &policy.scope()).unwrap().0;
    assert_eq!(key.canonical(), "team-country-se-session-a");
}

#[test]
fn both_files_must_fit() {
    let file =
        AccountsFile::parse("groups: {alice: {}}\naccounts: {alcie: {}, bob: {share: alice}}\n").unwrap();
    let users = users(&["alice", "bob"]);
    assert!(
        file.fits(&users).unwrap_err()[0].to_string().starts_with("line 1, column 10: 'alice' is an account")
    );
    let strangers = file.strangers(&users);
    assert_eq!(strangers.len(), 1);
    assert!(strangers[0].message.ends_with("no account 'alcie'; did you mean 'alice'?"));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_goes_on_counting_and_who_is_gone_is_ended_after_the_drain() {
    let (drain, wait) =
        (Duration::from_secs(10), |seconds| tokio::time::advance(Duration::from_secs(seconds)));
    let first = accounts(&["alice", "bob"], "defaults: {max_tunnels: 2}");
    let slot = first.policy("alice").unwrap().enter().unwrap();
    let none = AccountsFile::default();
    // Removed, and back in time.
    let second = first.next(&users(&["bob"]), &none);
    assert!(second.policy("alice").is_none());
    let gone: Vec<_> = second.gone().map(|(owner, _)| owner.as_str().to_owned()).collect();
    assert_eq!(gone, ["alice"]);
    assert!(second.end_due(drain).is_some());
    wait(9).await;
    let third = second.next(&users(&["alice", "bob"]), &none);
    assert_eq!((third.end_due(drain), third.gone().count()), (None, 0));
    assert_eq!(third.policy("alice").unwrap().usage.tunnels(), 1);
    // Removed by being disabled, for good. Another reload does not begin its time anew.
    let off = AccountsFile::parse("accounts: {alice: {disabled: true}}").unwrap();
    let fourth = third.next(&users(&["alice", "bob"]), &off);
    wait(5).await;
    let fifth = fourth.next(&users(&["alice", "bob", "carol"]), &off);
    let due = fifth.end_due(drain).unwrap();
    assert_eq!(due - Instant::now(), Duration::from_secs(5));
    assert!(!slot.usage().ended().is_cancelled());
    wait(5).await;
    assert_eq!(fifth.end_due(drain), None);
    assert!(slot.usage().ended().is_cancelled());
    // Who comes back after that begins anew.
    let sixth = fifth.next(&users(&["alice"]), &none);
    let again = sixth.policy("alice").unwrap();
    assert!(!again.usage.ended().is_cancelled() && again.usage.tunnels() == 0);
}

#[tokio::test(start_paused = true)]
async fn limits_name_themselves_what_is_used_and_when_to_come_again() {
    let all = accounts(&["a"], "defaults: {max_tunnels: 2, tunnels_per_second: 1, burst: 2}");
    let policy = all.policy("a").unwrap();
    let one = policy.enter().unwrap();
    let _two = policy.enter().unwrap();
    let over = policy.enter().unwrap_err();
    assert_eq!((over.quota, over.retry_after), (Quota::Tunnels, None));
    assert_eq!(over.message, "max_tunnels reached: 2 of 2 tunnels of this account are open");
    drop(one);
    let over = policy.enter().unwrap_err();
    assert_eq!((over.quota, over.retry_after), (Quota::Rate, Some(Duration::from_secs(1))));
    assert!(over.message.contains("2 of 2 at once are used, and 1 a second"), "{}", over.message);
    assert_eq!(policy.usage.tunnels(), 1, "what the rate refuses takes no place");
}

/// A directory as the kubelet mounts a ConfigMap or Secret.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(format!("..data/{name}"), dir.path().join(name)).unwrap();
        Self(dir)
    }

    fn publish(&self, version: &str, name: &str, text: &str) {
        let dir = self.0.path();
        std::fs::create_dir(dir.join(version)).unwrap();
        std::fs::write(dir.join(version).join(name), text).unwrap();
        let new = dir.join("..data_tmp");
        std::os::unix::fs::symlink(version, &new).unwrap();
        std::fs::rename(new, dir.join("..data")).unwrap();
    }
}

#[tokio::test]
async fn swapped_mounts_change_who_may_what_and_mistakes_change_nothing() {
    let (of_users, of_accounts) = (Mount::new("users"), Mount::new("accounts"));
    of_users.publish("1", "users", &(line("demo", "old") + &line("anna", "x")));
    of_accounts.publish("1", "accounts", "defaults: {max_tunnels: 1}");
    let source = Source {
        users: of_users.0.path().join("users"),
        accounts: Some(of_accounts.0.path().join("accounts")),
    };
    let files = source.load().unwrap();
    let (fingerprint, now) = (files.fingerprint(), files.accounts());
    let sender = watch::Sender::new(Arc::new(now));
    let mut accounts = sender.subscribe();
    let authenticator = Authenticator::new(files.into_users()).unwrap();
    let catalogue = watch::Sender::new(Arc::new(Catalogue::default()));
    let following = Follow {
        source,
        fingerprint,
        authenticator: authenticator.clone(),
        accounts: sender,
        catalogue: catalogue.subscribe(),
        drain: Duration::ZERO,
        interval: Duration::from_millis(5),
    };
    let (told, mut mistakes) = tokio::sync::mpsc::unbounded_channel();
    let watcher = tokio::spawn(follow(following, |_| {}, move |error| told.send(error.to_string()).unwrap()));
    let header =
        |pair: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)).into_bytes();
    assert!(authenticator.authenticate(&header("demo:old")).await.is_ok());
    let anna = authenticator.authenticate(&header("anna:x")).await.unwrap();
    let slot = accounts.borrow().policy("demo").unwrap().enter().unwrap();

    // A mistake in one file keeps the good change of the other out as well, and is told once.
    of_users.publish("2", "users", &line("anna", "x"));
    of_accounts.publish("2", "accounts", "defaults: {max_tunels: 1}");
    let mut error = mistakes.recv().await.unwrap();
    if !error.contains("did you mean 'max_tunnels'?") {
        // The first look fell between the two swaps: then demo is gone already.
        error = mistakes.recv().await.unwrap();
    }
    assert!(error.contains("accounts file") && error.contains("line 1, column 12"), "{error}");
    of_accounts.publish("3", "accounts", "defaults: {max_tunnels: 7}");
    accounts
        .wait_for(|accounts| accounts.policy("anna").is_some_and(|p| p.max_tunnels == Some(7)))
        .await
        .unwrap();
    assert!(accounts.borrow().policy("demo").is_none());
    assert_eq!(authenticator.authenticate(&header("demo:old")).await, Err(AuthError::Refused));
    slot.usage().ended().cancelled().await;

    // A change of the accounts file alone forgets no login.
    assert!(authenticator.authenticate(&header("anna:x")).await.is_ok());
    let hashes = authenticator.hashes();
    of_accounts.publish("4", "accounts", "defaults: {max_tunnels: 8}");
    accounts
        .wait_for(|accounts| accounts.policy("anna").is_some_and(|p| p.max_tunnels == Some(8)))
        .await
        .unwrap();
    assert!(authenticator.authenticate(&header("anna:x")).await.is_ok());
    assert_eq!(authenticator.hashes(), hashes);
    assert_eq!(anna.account.as_str(), "anna");
    // One that disables an account does, and its password is as wrong as any.
    of_users.publish("5", "users", &(line("anna", "x") + &line("bert", "y")));
    of_accounts.publish("5", "accounts", "accounts: {anna: {disabled: true}}");
    accounts.wait_for(|a| a.policy("anna").is_none() && a.policy("bert").is_some()).await.unwrap();
    while authenticator.authenticate(&header("anna:x")).await.is_ok() {
        tokio::task::yield_now().await;
    }
    // A file that is away is a mistake, and nobody is removed by it.
    std::fs::remove_file(of_users.0.path().join("users")).unwrap();
    assert!(mistakes.recv().await.unwrap().contains("cannot read the users file"));
    assert!(accounts.borrow().policy("bert").is_some());
    watcher.abort();
}
