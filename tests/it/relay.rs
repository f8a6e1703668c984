//! Tunnels through the whole chain: gateway, look-alike, origin.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::PATIENCE;

on_both! {
    async fn megabytes_both_ways_arrive_whole_and_are_counted(world) {
        let gateway = world.gateway(&[]).await;
        let tunnel = gateway.connect("demo-country-se", "echo-origin.test:7").await.unwrap();
        const SIZE: usize = 16 << 20;
        let (mut read, mut write) = tunnel.stream.into_split();
        let sender = tokio::spawn(async move {
            let mut sent = 0u32;
            let mut block = vec![0u8; 64 << 10];
            while (sent as usize) < SIZE {
                for chunk in block.chunks_exact_mut(4) {
                    chunk.copy_from_slice(&sent.to_le_bytes());
                    sent += 4;
                }
                write.write_all(&block).await.unwrap();
            }
            write
        });
        let mut got = vec![0u8; SIZE];
        tokio::time::timeout(PATIENCE, read.read_exact(&mut got)).await.unwrap().unwrap();
        let whole = got.chunks_exact(4).enumerate().all(|(n, c)| c == (n as u32 * 4).to_le_bytes());
        assert!(whole);
        drop(sender.await.unwrap());
        drop(read);
        crate::support::eventually("the bytes to be counted", || async {
            gateway.metric("gluetun_gateway_bytes_total", "direction=\"up\"").await >= SIZE as f64
                && gateway.metric("gluetun_gateway_bytes_total", "direction=\"down\"").await >= SIZE as f64
        })
        .await;
        assert_eq!(gateway.metric("gluetun_gateway_bytes_total", "direction=\"up\"").await, SIZE as f64);
    }
}

on_both! {
    async fn a_server_that_speaks_first_is_heard(world) {
        let gateway = world.gateway(&[]).await;
        let mut tunnel = gateway.connect("demo-country-se", "hello.test:25").await.unwrap();
        let mut greeting = std::mem::take(&mut tunnel.rest);
        while !greeting.ends_with(b"\r\n") {
            let n = tokio::time::timeout(PATIENCE, tunnel.stream.read_buf(&mut greeting)).await.unwrap().unwrap();
            assert!(n > 0);
        }
        assert_eq!(greeting, b"220 hello, I speak first\r\n");
    }
}

on_both! {
    async fn an_origin_that_closes_closes_the_tunnel_and_a_client_that_leaves_is_let_go(world) {
        let gateway = world.gateway(&[]).await;
        let mut tunnel = gateway.connect("demo-country-se", "hello.test:25").await.unwrap();
        tunnel.stream.write_all(b"QUIT\r\n").await.unwrap();
        tunnel.closed().await;
        // The client's own half is open until it closes it.
        drop(tunnel);
        let tunnels: Vec<_> = futures::future::join_all(
            (0..50).map(|_| gateway.connect("demo-country-se", "echo-origin.test:7")),
        )
        .await;
        assert!(tunnels.iter().all(Result::is_ok));
        crate::support::eventually("fifty tunnels", || async {
            gateway.metric("gluetun_gateway_tunnels_open", "").await == 50.0
        })
        .await;
        drop(tunnels);
        crate::support::eventually("no tunnels", || async {
            gateway.metric("gluetun_gateway_tunnels_open", "").await == 0.0
        })
        .await;
    }
}

on_both! {
    async fn not_one_byte_is_lost_in_many_short_tunnels(world) {
        let gateway = world.gateway(&[]).await;
        gateway.exit("demo-country-se").await;
        for _ in 0..20 {
            let tunnels = (0..16).map(|n: u8| {
                let gateway = &gateway;
                async move {
                    let mut tunnel = gateway.connect("demo-country-se", "echo-origin.test:7").await.unwrap();
                    assert_eq!(tunnel.echo(&[n, 1, 2, 3]).await, [n, 1, 2, 3]);
                }
            });
            futures::future::join_all(tunnels).await;
        }
    }
}
