//! Asks the health servers of starting pods. The kubelet's word comes up to a second late, and only the
//! health server's own text tells a silent tunnel from a slow start.
//!
//! One small task a pod, for as long as [`Probes::keep`] names it; an answer is sent on only when it
//! differs from the last, so that a pod that stays as it is wakes nobody.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::session::pod::HEALTH_PORT;
use crate::session::probe::{self, health};

/// Between two questions.
const PERIOD: Duration = Duration::from_millis(250);

/// The same for a strict session: its clients get the exit only once the leader has noted it, so that they
/// wait for the leader's word and not for their replica's.
const OFTEN: Duration = Duration::from_millis(25);

/// For one question, connecting included.
const DEADLINE: Duration = Duration::from_secs(1);

/// What a health server says, as far as the plan goes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// 200: the VPN is up.
    Up,
    /// The VPN's own start-up check has timed out: it runs, and nothing comes through.
    Silent,
    /// Anything else: not listening yet, not checked yet, another failure.
    Down,
}

/// Asks the health server at `address` once.
pub(super) async fn ask(address: SocketAddr) -> Health {
    match health(address, DEADLINE).await {
        probe::Health::Healthy => Health::Up,
        probe::Health::Unhealthy(text) if text.contains("startup check") && text.contains("i/o timeout") => {
            Health::Silent
        }
        probe::Health::Unhealthy(_) | probe::Health::Unreachable => Health::Down,
    }
}

/// A pod that is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    /// Its uid.
    pub(super) uid: String,
    /// Where it is.
    pub(super) ip: IpAddr,
    /// Whether clients wait for the leader's word.
    pub(super) often: bool,
}

/// The pods that are asked. Dropping it ends every task.
#[derive(Debug)]
pub(super) struct Probes {
    tasks: JoinSet<()>,
    asked: HashMap<Asked, AbortHandle>,
    answers: mpsc::Sender<(String, Health)>,
}

impl Probes {
    /// Answers come as the pod's uid and what its health server said.
    pub(super) fn new() -> (Self, mpsc::Receiver<(String, Health)>) {
        let (answers, receiver) = mpsc::channel(64);
        (Self { tasks: JoinSet::new(), asked: HashMap::new(), answers }, receiver)
    }

    /// Asks these pods from now on, and no others.
    pub(super) fn keep(&mut self, pods: Vec<Asked>) {
        while self.tasks.try_join_next().is_some() {}
        let wanted: HashSet<&Asked> = pods.iter().collect();
        self.asked.retain(|pod, task| {
            let keep = wanted.contains(pod);
            if !keep {
                task.abort();
            }
            keep
        });
        for pod in pods {
            if !self.asked.contains_key(&pod) {
                let address = SocketAddr::new(pod.ip, HEALTH_PORT);
                let period = if pod.often { OFTEN } else { PERIOD };
                let task = follow(pod.uid.clone(), address, period, self.answers.clone());
                self.asked.insert(pod, self.tasks.spawn(task));
            }
        }
    }
}

async fn follow(uid: String, address: SocketAddr, period: Duration, answers: mpsc::Sender<(String, Health)>) {
    let mut last = None;
    let mut period = tokio::time::interval(period);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        let health = ask(address).await;
        if last != Some(health) {
            if answers.send((uid.clone(), health)).await.is_err() {
                return;
            }
            last = Some(health);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn serve(answers: Vec<&'static str>) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 256];
                let n = stream.read(&mut request).await.unwrap();
                assert!(request[..n].ends_with(b"\r\n\r\n"), "the head came whole");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn the_servers_answers_are_told_apart() {
        let address = serve(vec![
            "HTTP/1.1 500 Internal Server Error\r\n\r\nhealthcheck did not run yet\n",
            "HTTP/1.1 500 Internal Server Error\r\n\r\nstartup check: all check tries failed: parallel attempt 1/2 \
             failed: dialing: dial tcp4 1.1.1.1:443: i/o timeout\n",
            "HTTP/1.1 500 Internal Server Error\r\n\r\nstartup check: connection refused\n",
            "nonsense",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ])
        .await;
        assert_eq!(ask(address).await, Health::Down);
        assert_eq!(ask(address).await, Health::Silent);
        assert_eq!(ask(address).await, Health::Down);
        assert_eq!(ask(address).await, Health::Down);
        assert_eq!(ask(address).await, Health::Up);
        assert_eq!(ask(address).await, Health::Down, "nobody listens any more");
    }

    #[tokio::test]
    async fn only_changes_are_sent() {
        let down = "HTTP/1.1 500 Internal Server Error\r\n\r\nhealthcheck did not run yet\n";
        let address = serve(vec![down, down, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]).await;
        let (sender, mut receiver) = mpsc::channel(8);
        let task = tokio::spawn(follow("u".into(), address, PERIOD, sender));
        assert_eq!(receiver.recv().await, Some(("u".into(), Health::Down)));
        assert_eq!(receiver.recv().await, Some(("u".into(), Health::Up)));
        task.abort();
    }
}
