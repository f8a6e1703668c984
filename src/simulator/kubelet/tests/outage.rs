//! An API server that is away for a while: what happened meanwhile is told when it is back.

use super::*;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// A road to the API server that can be closed.
struct Road {
    open: watch::Sender<bool>,
    travelled: Arc<watch::Sender<usize>>,
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Road {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, is_open) = watch::channel(true);
        let travelled = Arc::new(watch::channel(0).0);
        let count = Arc::clone(&travelled);
        let task = tokio::spawn(async move {
            let broken = CancellationToken::new();
            let _broken = broken.clone().drop_guard();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                count.send_modify(|count| *count += 1);
                let (server, mut is_open) = (server.clone(), is_open.clone());
                let (broken, count) = (broken.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    let carry = async {
                        let mut far = TcpStream::connect(&server).await?;
                        tokio::io::copy_bidirectional(&mut near, &mut far).await
                    };
                    tokio::select! {
                        biased;
                        _ = is_open.wait_for(|open| !open) => {}
                        () = broken.cancelled() => {}
                        _ = carry => {}
                    }
                    count.send_modify(|count| *count -= 1);
                });
            }
        });
        Self { open, travelled, address, _task: AbortOnDropHandle::new(task) }
    }

    /// Closes the road, and waits until nobody is on it.
    async fn close(&self) {
        self.open.send_replace(false);
        self.travelled.subscribe().wait_for(|count| *count == 0).await.unwrap();
    }
}

#[tokio::test]
async fn what_happens_while_the_api_server_is_away_is_told_afterwards() {
    let server = Server::start().await;
    let url = server.config.cluster_url.clone();
    let road = Road::to(url.authority().unwrap().to_string()).await;
    let mut config = server.config.clone();
    let scheme = url.scheme_str().unwrap();
    config.cluster_url = format!("{scheme}://{}/", road.address).parse().unwrap();
    // The test itself sees the API server all the time.
    let lab = Lab::on(server, config, 140, |_| {}).await;
    for name in ["dies", "deleted", "stays"] {
        lab.pod(name, "serve").await;
        lab.until_ready(name).await;
    }
    road.close().await;
    assert!(lab.kubelet.kill("dies"));
    lab.programs.until_running("dies", 0).await;
    lab.delete("deleted", 0).await;
    lab.pod("new", "serve").await;
    let unseen = json!(lab.api::<Pod>().get("dies").await.unwrap());
    assert_eq!(unseen["status"]["phase"], "Running", "the kubelet cannot tell");
    assert_eq!(lab.programs.running.borrow().get("deleted"), Some(&1), "the kubelet cannot know");
    road.open.send_replace(true);
    assert_eq!(terminated(&lab.until_phase("dies", "Failed").await)["exitCode"], 137);
    lab.programs.until_running("deleted", 0).await;
    lab.until_ready("new").await;
    assert_eq!(lab.programs.running.borrow().get("stays"), Some(&1));
    assert_eq!(first(&lab.until_ready("stays").await)["restartCount"], 0);
    lab.end().await;
}
