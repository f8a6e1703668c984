//! A real kube-apiserver and etcd, where their binaries are (`KUBEBUILDER_ASSETS`, the convention of
//! Kubernetes' own test tools): one of each for the whole suite, a namespace for each test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use kube::config::Kubeconfig;

struct Server {
    config: kube::Config,
    /// Holds the pipe whose end tells the servers that the suite has ended, however it did.
    _supervisor: Child,
    _dir: tempfile::TempDir,
}

static SERVER: OnceLock<Option<Server>> = OnceLock::new();

/// How to reach it, none where there are no binaries.
pub fn config() -> Option<kube::Config> {
    SERVER.get_or_init(start).as_ref().map(|server| server.config.clone())
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

fn start() -> Option<Server> {
    let assets = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS").filter(|v| !v.is_empty())?);
    // The kube client's TLS needs a provider; the real application's `main` installs it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (client, peer, api) = (free_port(), free_port(), free_port());
    let token = "suite-admin";
    std::fs::write(at("tokens.csv"), format!("{token},admin,admin,system:masters\n")).expect("tokens");
    let key = Command::new("openssl").args(["genrsa", "-out", &at("sa.key"), "2048"]).output();
    assert!(key.is_ok_and(|out| out.status.success()), "openssl makes the service accounts' key");
    let etcd = format!(
        "exec '{}' --data-dir '{}' --listen-client-urls http://127.0.0.1:{client} \
         --advertise-client-urls http://127.0.0.1:{client} --listen-peer-urls http://127.0.0.1:{peer} \
         --initial-advertise-peer-urls http://127.0.0.1:{peer} --initial-cluster default=http://127.0.0.1:{peer} \
         --unsafe-no-fsync >'{}' 2>&1",
        assets.join("etcd").display(),
        at("etcd"),
        at("etcd.log"),
    );
    let server = format!(
        "exec '{}' --etcd-servers http://127.0.0.1:{client} --cert-dir '{}' --bind-address 127.0.0.1 \
         --secure-port {api} --advertise-address 127.0.0.1 --service-cluster-ip-range 10.0.0.0/24 \
         --authorization-mode RBAC --token-auth-file '{}' --service-account-issuer https://kubernetes.default.svc \
         --service-account-key-file '{key}' --service-account-signing-key-file '{key}' --allow-privileged=true \
         --disable-admission-plugins ServiceAccount >'{}' 2>&1",
        assets.join("kube-apiserver").display(),
        at("certs"),
        at("tokens.csv"),
        at("apiserver.log"),
        key = at("sa.key"),
    );
    // The shell waits for the end of its input, which comes when this process ends, even by a signal.
    let script = format!("({etcd}) & e=$!; ({server}) & s=$!; read _; kill -9 $e $s 2>/dev/null");
    let supervisor = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell");
    let crt = dir.path().join("certs/apiserver.crt");
    wait_until_ready(api, token, &crt, &at("apiserver.log"));
    let ca = std::fs::read(&crt).expect("the server's certificate");
    let path = dir.path().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: test, cluster: {{server: \"https://127.0.0.1:{api}\", \
         certificate-authority-data: \"{}\"}}}}]\nusers: [{{name: admin, user: {{token: \"{token}\"}}}}]\n\
         contexts: [{{name: test, context: {{cluster: test, user: admin, namespace: default}}}}]\n\
         current-context: test\n",
        encode(&ca)
    );
    std::fs::write(&path, text).expect("a kubeconfig");
    let kubeconfig = Kubeconfig::read_from(&path).expect("a kubeconfig");
    // A runtime of its own: the caller may be inside one.
    let config = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime
            .block_on(kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()))
            .expect("a config")
    })
    .join()
    .expect("a config");
    Some(Server { config, _supervisor: supervisor, _dir: dir })
}

fn encode(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Asks `/readyz` until it says ok. `curl` is there wherever the binaries can be built.
fn wait_until_ready(port: u16, token: &str, certificate: &Path, log: &str) {
    let begun = std::time::SystemTime::now();
    loop {
        if certificate.exists() {
            let answer = Command::new("curl")
                .args(["-fsk", "--max-time", "2", "-H", &format!("Authorization: Bearer {token}")])
                .arg(format!("https://127.0.0.1:{port}/readyz"))
                .output();
            if answer.is_ok_and(|out| out.status.success()) {
                return;
            }
        }
        assert!(
            begun.elapsed().unwrap_or_default() < Duration::from_secs(180),
            "kube-apiserver does not get ready: {}",
            std::fs::read_to_string(log).unwrap_or_default()
        );
        std::thread::park_timeout(Duration::from_millis(100));
    }
}
