//! What a guess shows of an account: how long a wrong password of one that exists takes, and any password
//! of one that does not, as two distributions: `cargo bench --bench login`. Half a minute.
//!
//! Twice: as clients see it, at rest, where the floor of 300 ms covers everything; and with more guesses
//! at once than the floor covers, where the hashes themselves show through. The guesses alternate, so that
//! whatever else the machine does falls on both.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt, stream};
use gluetun_gateway::identity::{AuthError, Authenticator, FAILURE_FLOOR, Users};

/// The cost that `htpasswd -B -C 10` writes: some 60 ms.
const COST: u32 = 10;

/// Which account is guessed at, and how long the answer took.
type Guess = (&'static str, Duration);

async fn guesses(authenticator: &Authenticator, count: usize, at_once: usize) -> Vec<Guess> {
    let ask = |n: usize| async move {
        let account = if n.is_multiple_of(2) { "known" } else { "unknown" };
        // A password for each, since refusals are remembered.
        let pair = STANDARD.encode(format!("{account}:guess {n} of {count}"));
        let header = format!("Basic {pair}");
        let begun = Instant::now();
        let answer = authenticator.authenticate(header.as_bytes()).await;
        assert_eq!(answer.unwrap_err(), AuthError::Refused);
        (account, begun.elapsed())
    };
    stream::iter(0..count).map(ask).buffer_unordered(at_once).collect().await
}

fn show(title: &str, guesses: &[Guess]) {
    println!(
        "{title}\n  {:<8} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "n", "min", "p10", "p50", "p90", "max"
    );
    for account in ["known", "unknown"] {
        let mut times: Vec<f64> =
            guesses.iter().filter(|g| g.0 == account).map(|g| g.1.as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        let at = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize];
        println!(
            "  {account:<8} {:>5} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1}",
            times.len(),
            at(0.0),
            at(0.1),
            at(0.5),
            at(0.9),
            at(1.0)
        );
    }
}

fn main() {
    let hash = bcrypt::hash("the right one", COST).expect("a hash");
    let users = Users::parse(&format!("known:{hash}\nother:{hash}\n")).expect("a users file");
    let authenticator = Authenticator::new(users).expect("a thread");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let rest = guesses(&authenticator, 80, 2).await;
        show(&format!("two guesses at once (floor {} ms), milliseconds", FAILURE_FLOOR.as_millis()), &rest);
        assert!(rest.iter().all(|guess| guess.1 >= FAILURE_FLOOR));
        let busy = guesses(&authenticator, 160, 16).await;
        show("sixteen at once: the verifier is the limit, milliseconds", &busy);
        assert_eq!(authenticator.hashes(), 240, "one hash for each guess, known or not");
    });
}
