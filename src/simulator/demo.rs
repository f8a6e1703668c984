//! The demo: the gateway and an embedded cluster in one process, with an account and a server list of its
//! own, so that nothing needs to be installed or configured. Run by `main`.

use std::fmt::Write as _;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::cluster::{Cluster, ClusterError, ClusterOptions};
use super::gluetun::SERVERS_JSON;
use crate::app::{App, AppError, Options};
use crate::config::{Config, ConfigError, Environment};
use crate::identity::{PasswordError, hash_password};
use crate::metrics::Metrics;

/// The demo's account, and its password.
const USER: &str = "demo";

/// What the demo is started with.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Where the proxy port listens.
    pub proxy_addr: SocketAddr,
    /// Where the admin port listens.
    pub admin_addr: SocketAddr,
    /// After how long without a tunnel or request a session's exit goes.
    pub idle_timeout: Duration,
    /// Pods at most.
    pub instance_limit: usize,
    /// Where the kubeconfig is written; in a directory of the demo's own where none is named.
    pub kubeconfig_out: Option<PathBuf>,
    /// The embedded cluster's own.
    pub cluster: ClusterOptions,
}

/// Why the demo cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A file cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The embedded cluster cannot start.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The account's password cannot be hashed.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// An argument makes a setting that is none.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The gateway cannot start.
    #[error(transparent)]
    App(#[from] AppError),
}

/// A demo that runs.
#[derive(Debug)]
pub struct Demo {
    app: App,
    kubeconfig: PathBuf,
    idle_timeout: Duration,
    instance_limit: usize,
    cluster: Cluster,
    _dir: OwnDir,
}

impl Demo {
    /// Starts the cluster and then the gateway, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// As [`DemoError`] says.
    pub async fn start(options: DemoOptions, metrics: Option<Arc<Metrics>>) -> Result<Self, DemoError> {
        let dir = OwnDir::create()?;
        let namespace = options.cluster.namespace.clone();
        // A command in place of the look-alike prints no list; the look-alike does, as a Job.
        let list = options.cluster.pod_command.as_ref().map_or("", |_| SERVERS_JSON);
        let cluster = Cluster::start(options.cluster).await?;
        let kubeconfig = options.kubeconfig_out.unwrap_or_else(|| dir.path.join("kubeconfig"));
        write_kubeconfig(&kubeconfig, &cluster)?;
        let users = dir.path.join("users");
        write_private(&users, &format!("{USER}:{}\n", hash_password(USER)?))?;

        let env = Environment::of([
            ("PROXY_ADDR", options.proxy_addr.to_string()),
            ("ADMIN_ADDR", options.admin_addr.to_string()),
            ("GATEWAY_URL", format!("http://{}", options.proxy_addr)),
            ("USERS_FILE", users.display().to_string()),
            ("K8S_NAMESPACE", namespace),
            ("POD_NAME", "gluetun-gateway-demo".to_owned()),
            ("IDLE_TIMEOUT", humantime::format_duration(options.idle_timeout).to_string()),
            ("INSTANCE_LIMIT", options.instance_limit.to_string()),
            ("SERVERS_JSON", list.to_owned()),
            // Whoever ends it waits for it.
            ("DRAIN_DELAY", "0s".to_owned()),
            ("DRAIN_TIMEOUT", "2s".to_owned()),
        ]);
        let config = Config::load(&env)?;
        let (idle_timeout, instance_limit) = (config.idle_timeout, config.instance_limit);
        let app = App::start_with(config, cluster.client_config(), Options { metrics, ..Options::default() })
            .await?;
        app.ready().await;
        Ok(Self { app, kubeconfig, idle_timeout, instance_limit, cluster, _dir: dir })
    }

    /// The gateway.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// The embedded cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Ends the cluster, once the gateway has ended ([`App::wait`]); the gateway first, if it has not.
    pub async fn stop(self) {
        drop(self.app);
        self.cluster.stop().await;
    }

    /// What to tell whoever has started it.
    pub fn banner(&self) -> String {
        let (proxy, admin) = (self.app.proxy_addr(), self.app.admin_addr());
        let kubeconfig = self.kubeconfig.display();
        let idle = humantime::format_duration(self.idle_timeout);
        let limit = self.instance_limit;
        let mut text = format!(
            "gluetun-gateway demo: the gateway and a cluster of its own, in this process\n\
             \n\
             \x20 proxy       http://{proxy}   user {USER}, password {USER}\n\
             \x20 admin       http://{admin}   /status, /readyz, /metrics\n\
             \x20 kubeconfig  {kubeconfig}\n\
             \n\
             A request starts a pod where its user name says; at most {limit} run, and one that is idle\n\
             for {idle} goes. Paste these into another terminal:\n"
        );
        let sections: [(&str, &[(&str, &str)]); 3] = [
            (
                "an exit in Sweden; the second one is there at once",
                &[
                    ("-px", "demo-country-se:demo"),
                    ("-x", "demo-country-se:demo"),
                    ("-px", "demo-country-us-city-new-york:demo"),
                    ("-px", "demo-country-se-session-a:demo"),
                    ("-px", "demo-country-se-session-b:demo"),
                ],
            ),
            (
                "what goes wrong is told: a wrong password, places that are none, no room for another pod",
                &[
                    ("-ix", "demo:wrong"),
                    ("-ix", "demo-country-swedn:demo"),
                    ("-ix", "demo-country-us-city-malmo:demo"),
                    ("-ix", "demo-country-de-wait-3s:demo"),
                ],
            ),
            ("the gateway's own network is no destination", &[]),
        ];
        for (title, lines) in sections {
            // A text grows without failing.
            let _ = writeln!(text, "\n  # {title}");
            for (flags, credentials) in lines {
                let _ = writeln!(text, "  curl {flags} http://{credentials}@{proxy} http://whoami.test/");
            }
        }
        let _ = writeln!(text, "  curl -px http://{USER}:{USER}@{proxy} http://{admin}/");
        let _ = write!(
            text,
            "\n  # what the cluster sees\n\
             \x20 curl http://{admin}/status\n\
             \x20 kubectl --kubeconfig {kubeconfig} get pods,leases -o wide\n\
             \n\
             Ctrl-C ends it.\n"
        );
        text
    }
}

/// Writes a file that only its owner may read: it has credentials.
fn write_private(path: &Path, text: &str) -> Result<(), DemoError> {
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(text.as_bytes())
    };
    write().map_err(|error| DemoError::File { path: path.to_owned(), error })
}

/// Writes the kubeconfig of an embedded cluster, readable by its owner alone.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_kubeconfig(path: &Path, cluster: &Cluster) -> Result<(), DemoError> {
    write_private(path, &cluster.kubeconfig())
}

/// Waits until its input ends, which it does when this process does, be it by SIGKILL, and removes a
/// directory. Signals that a terminal sends to all that runs in it are this process's matter.
const REAPER: &str = "trap '' HUP INT TERM; read -r _; rm -rf -- \"$1\"";

/// A directory of this process's own, which goes with it.
#[derive(Debug)]
struct OwnDir {
    path: PathBuf,
    /// Holds the pipe whose end it waits for. Where there is no shell, a demo that is killed leaves its
    /// directory behind.
    reaper: Option<Child>,
}

impl OwnDir {
    /// Fails where the name is taken, so that nobody can have put a link there before.
    fn create() -> Result<Self, DemoError> {
        let name = format!("gluetun-gateway-demo-{:08x}", rand::random::<u32>());
        let path = std::env::temp_dir().join(name);
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| DemoError::File { path: path.clone(), error })?;
        let mut reaper = Command::new("/bin/sh");
        reaper.args(["-c", REAPER, "sh"]).arg(&path).process_group(0);
        let reaper = reaper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self { path, reaper: reaper.ok() })
    }
}

impl Drop for OwnDir {
    fn drop(&mut self) {
        // What cannot be removed is small, private and in a directory for what may go.
        std::fs::remove_dir_all(&self.path).ok();
        if let Some(reaper) = &mut self.reaper {
            // Closes its input; it finds nothing left to do.
            reaper.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::app::Exit;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_demo_tells_where_everything_is_and_leaves_nothing_behind() {
        let options = DemoOptions {
            proxy_addr: ([127, 0, 0, 1], 0).into(),
            admin_addr: ([127, 0, 0, 1], 0).into(),
            idle_timeout: Duration::from_secs(30),
            instance_limit: 3,
            kubeconfig_out: None,
            cluster: ClusterOptions {
                pod_cidr: "127.45.0.0/24".parse().unwrap(),
                ..ClusterOptions::default()
            },
        };
        let demo = Demo::start(options, None).await.unwrap();
        let banner = demo.banner();
        for told in [
            demo.app().proxy_addr().to_string(),
            demo.app().admin_addr().to_string(),
            demo.kubeconfig.display().to_string(),
            "at most 3 run".to_owned(),
            "for 30s goes".to_owned(),
        ] {
            assert!(banner.contains(&told), "{told}: {banner}");
        }
        let kubeconfig = demo.kubeconfig.clone();
        assert!(
            std::fs::read_to_string(&kubeconfig)
                .unwrap()
                .contains(demo.cluster().api().addr().to_string().as_str())
        );
        assert_eq!(std::fs::metadata(&kubeconfig).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(demo.app().ready().await.ready);
        demo.app().shutdown();
        assert_eq!(demo.app().wait().await, Exit::Clean);
        demo.stop().await;
        assert!(!kubeconfig.exists());
    }

    /// As when the process is killed: all that the reaper notices is that the pipe ends.
    #[test]
    fn the_directory_goes_also_when_nobody_is_left_to_remove_it() {
        let mut dir = OwnDir::create().unwrap();
        std::fs::write(dir.path.join("users"), "x").unwrap();
        let reaper = dir.reaper.as_mut().unwrap();
        drop(reaper.stdin.take());
        assert!(reaper.wait().unwrap().success());
        assert!(!dir.path.exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_port_that_is_taken_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let options = DemoOptions {
            proxy_addr: ([127, 0, 0, 1], 0).into(),
            admin_addr: taken.local_addr().unwrap(),
            idle_timeout: Duration::from_secs(30),
            instance_limit: 3,
            kubeconfig_out: None,
            cluster: ClusterOptions::default(),
        };
        let error = Demo::start(options, None).await.unwrap_err().to_string();
        assert!(error.contains("ADMIN_ADDR") && error.contains("in use"), "{error}");
    }
}
