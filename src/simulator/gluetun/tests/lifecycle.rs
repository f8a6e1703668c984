//! Start, end and arguments of a container.

use super::*;
use crate::simulator::gluetun::ServerList;

fn finished(argv: &str) -> Pod {
    let mut spec = spec(&[]);
    spec.argv = argv.split_whitespace().map(str::to_owned).collect();
    Pod::run(&Arc::new(Gluetun::new(instant())), spec)
}

#[tokio::test]
async fn format_servers_prints_the_list_and_nothing_else() {
    let pod = finished("/gluetun-entrypoint format-servers -mullvad -format json");
    let (log, exit) = (pod.log.clone(), pod.ended().await);
    assert_eq!(exit, Exit::code(0));
    assert_eq!(log.lines().join("\n"), ServerList::builtin().to_json().unwrap());
    let pod = finished("format-servers -nope");
    assert_eq!(pod.ended().await, Exit::code(2));
}

#[tokio::test]
async fn what_the_image_lacks_does_not_start() {
    let pod = finished("/bin/true");
    let exit = pod.ended().await;
    assert_eq!((exit.code, exit.reason), (128, "StartError"));
    assert!(exit.message.unwrap().contains("/bin/true"));
    let pod = finished("nonsense");
    let (exit, log) = (pod.task.is_finished(), pod.log.clone());
    assert!(!exit);
    assert_eq!(pod.ended().await, Exit::code(1));
    assert!(log.lines()[0].ends_with(" ERROR command is unknown: nonsense"));
}

#[tokio::test(start_paused = true)]
async fn the_phases_of_a_start_come_in_time() {
    let exec = Instant::now();
    let mut pod = Pod::run(&Arc::new(Gluetun::default()), spec(&[]));
    for (line, at) in [
        ("[http proxy] listening on [::]:8888", 1400),
        ("Wireguard setup is complete", 1460),
        ("healthy!", 2000),
    ] {
        pod.logged(line).await;
        took_ms(exec, at);
    }
}

#[tokio::test]
async fn a_start_goes_from_refused_over_500_to_200() {
    let start = Duration::from_secs(3600);
    let gluetun = Arc::new(Gluetun::new(Options { start, ..Options::default() }));
    let mut pod = Pod::run(&gluetun, spec(&[]));
    pod.logged("enabled successfully").await;
    for port in [8888, 9999] {
        let error = pod.try_connect(port).await.err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    // Ten minutes to go when it listens, so that no clock runs into the questions.
    tokio::time::pause();
    tokio::time::advance(start.mul_f64(0.701)).await;
    tokio::time::resume();
    pod.logged("[http server] listening").await;
    assert_eq!(pod.health().await, (500, "healthcheck did not run yet\n".to_owned()));
    tokio::time::pause();
    pod.logged("healthy!").await;
    tokio::time::resume();
    assert_eq!(pod.health().await, (200, String::new()));
}

#[tokio::test(start_paused = true)]
async fn mistakes_end_it_with_an_error_line_before_the_goodbye() {
    let gluetun = Arc::new(Gluetun::default());
    for (change, start, at) in [
        (
            ("SERVER_HOSTNAMES", "se-mma-wg-999"),
            "ERROR VPN settings: provider settings: server selection: ",
            600,
        ),
        (
            ("WIREGUARD_PRIVATE_KEY", "short"),
            "ERROR VPN settings: Wireguard settings: private key is not valid: ",
            600,
        ),
        (
            ("FIREWALL_INPUT_PORTS", "all"),
            "ERROR reading firewall settings: environment variable FIREWALL_INPUT_PORTS: ",
            100,
        ),
    ] {
        let exec = Instant::now();
        let pod = Pod::run(&gluetun, spec(&[change]));
        let log = pod.log.clone();
        assert_eq!(pod.ended().await, Exit::code(1));
        took_ms(exec, at);
        let lines = log.lines();
        assert!(lines[lines.len() - 2].contains(start), "{lines:#?}");
        assert!(lines[lines.len() - 1].ends_with("INFO Shutdown successful"), "{lines:#?}");
    }
}

#[tokio::test]
async fn sigterm_cuts_everything_and_exits_1() {
    let pod = Pod::up(instant()).await;
    let mut tunnel = pod.tunnel("echo.test:7").await;
    let mut hanging = pod.ask("[2001:db8::1]:80", "").await;
    pod.all_served().await;
    pod.signals.term.cancel();
    assert_eq!(tunnel.rest().await, "");
    assert_eq!(hanging.rest().await, "");
    let (log, ip) = (pod.log.clone(), pod.spec.pod_ip);
    assert_eq!(pod.ended().await, Exit::code(1));
    let lines = log.lines();
    assert!(
        lines[lines.len() - 2].ends_with("INFO Caught OS signal terminated, shutting down"),
        "{lines:#?}"
    );
    assert!(lines[lines.len() - 1].contains("WARN Shutdown failed: "), "{lines:#?}");
    assert!(TcpStream::connect(SocketAddr::new(ip, 8888)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn sigterm_takes_its_time_and_sigkill_none() {
    let gluetun = Arc::new(Gluetun::default());
    for (kill, code, at) in [(false, 1, 440), (true, 137, 0)] {
        let mut pod = Pod::run(&gluetun, spec(&[]));
        pod.logged("healthy!").await;
        let told = Instant::now();
        pod.signals.term.cancel();
        pod.logged("Caught OS signal").await;
        if kill {
            pod.signals.kill.cancel();
        }
        assert_eq!(pod.ended().await, Exit::code(code));
        took_ms(told, at);
    }
}

#[tokio::test]
async fn sigkill_resets_connections_and_frees_the_address() {
    let mut pod = Pod::up(instant()).await;
    for _ in 0..3 {
        let mut clients =
            [pod.tunnel("echo.test:7").await, pod.ask("[2001:db8::1]:80", "").await, pod.connect(9999).await];
        pod.all_served().await;
        pod.health().await;
        pod.signals.kill.cancel();
        let (gluetun, spec) = (Arc::clone(&pod.gluetun), pod.spec.clone());
        assert_eq!(pod.ended().await, Exit::code(137));
        for client in &mut clients {
            let error = client.stream.read_buf(&mut client.buf).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        pod = Pod::run(&gluetun, spec);
        pod.logged("healthy!").await;
    }
}

#[tokio::test]
async fn a_container_that_is_dropped_lets_its_address_go() {
    let pod = Pod::up(instant()).await;
    let mut tunnel = pod.tunnel("echo.test:7").await;
    let address = SocketAddr::new(pod.spec.pod_ip, 8888);
    drop(pod);
    assert_eq!(tunnel.rest().await, "");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn an_address_in_use_is_an_error_line() {
    let pod = Pod::up(instant()).await;
    let second = Pod::run(&pod.gluetun, pod.spec.clone());
    let log = second.log.clone();
    assert_eq!(second.ended().await, Exit::code(1));
    assert!(
        log.lines().iter().any(|line| line.contains(" ERROR [http proxy] listen tcp ")),
        "{:#?}",
        log.lines()
    );
}
