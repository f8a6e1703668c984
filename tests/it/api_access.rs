//! Who may use the management API: tokens, and pages of other origins.

use std::net::SocketAddr;

use serde_json::json;

use crate::support::http::{Answer, get, raw};
use crate::support::{World, eventually};

async fn with(admin: SocketAddr, line: &str, headers: &str) -> Answer {
    let request =
        format!("{line} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n");
    raw(admin, request.as_bytes()).await
}

async fn bearer(admin: SocketAddr, line: &str, token: &str) -> u16 {
    with(admin, line, &format!("Authorization: Bearer {token}\r\n")).await.status
}

const OLD: &str = "the-old-token-0123456789";
const NEW: &str = "the-new-token-9876543210";

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_file_are_rotated_without_a_restart() {
    let world = World::embedded().await;
    let path = world.path("tokens");
    let publish = |text: String| {
        std::fs::write(world.path("tokens-new"), text).unwrap();
        std::fs::rename(world.path("tokens-new"), &path).unwrap();
    };
    publish(format!("# the screenshots\n{OLD}\n"));
    let gateway = world.gateway(&[("ADMIN_TOKEN_FILE", &path)]).await;
    let admin = gateway.admin;
    for (line, status) in [
        ("GET /status", 200),
        ("GET /servers", 200),
        ("GET /locations", 200),
        ("POST /start", 400),
        ("POST /destroy", 404),
        ("POST /stop", 400),
        ("POST /servers/refresh", 200),
    ] {
        assert_eq!(bearer(admin, line, OLD).await, status, "{line}");
        assert_eq!(bearer(admin, line, NEW).await, 401, "{line}");
        let refused = with(admin, line, "").await;
        assert_eq!(refused.status, 401, "{line}");
        assert!(refused.header("www-authenticate").starts_with("Bearer "), "{refused:?}");
        assert!(refused.json()["error"].as_str().unwrap().contains("Authorization: Bearer"), "{line}");
    }
    for path in ["/health", "/livez", "/readyz", "/metrics"] {
        assert_eq!(get(admin, path).await.status, 200, "{path}");
    }

    publish(format!("# the screenshots, until Friday\n{OLD}\n# and from now on\n{NEW}\n"));
    eventually("the new token", || async { bearer(admin, "GET /status", NEW).await == 200 }).await;
    assert_eq!(bearer(admin, "GET /status", OLD).await, 200, "both, for a while");
    // A mistake changes nothing, and an empty file does not open the API.
    publish("# none\n".to_owned());
    eventually("the mistake", || async {
        gateway.metric("gluetun_gateway_reload_errors_total", "tokens").await == 1.0
    })
    .await;
    assert_eq!(get(admin, "/status").await.status, 401);
    assert_eq!(bearer(admin, "GET /status", OLD).await, 200);
    publish(NEW.to_owned());
    eventually("the old token's end", || async { bearer(admin, "GET /status", OLD).await == 401 }).await;
    assert_eq!(bearer(admin, "GET /status", NEW).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_origins_that_are_allowed_may_use_it() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[("ADMIN_TOKEN", OLD)]).await;
    let admin = gateway.admin;
    let preflight = async |origin: &str, path: &str| {
        let headers = format!(
            "Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: content-type,authorization\r\n"
        );
        with(admin, &format!("OPTIONS {path}"), &headers).await
    };
    for origin in ["http://localhost:5000", "http://127.0.0.1:5000"] {
        for path in ["/start", "/servers/refresh", "/status"] {
            let answer = preflight(origin, path).await;
            assert_eq!(answer.status, 200, "a preflight has no token");
            assert_eq!(answer.header("access-control-allow-origin"), origin);
            for (header, words) in [
                ("access-control-allow-methods", &["GET", "POST", "OPTIONS"][..]),
                ("access-control-allow-headers", &["content-type", "authorization"]),
            ] {
                let told = answer.header(header).to_owned();
                for word in words {
                    assert!(
                        told.to_ascii_lowercase().contains(&word.to_ascii_lowercase()),
                        "{header}: {told}"
                    );
                }
            }
            assert!(!answer.header("x-request-id").is_empty());
        }
        // The answer itself, and a refusal, can be read by the page.
        for headers in [format!("Authorization: Bearer {OLD}\r\n"), String::new()] {
            let answer = with(admin, "GET /status", &format!("Origin: {origin}\r\n{headers}")).await;
            assert_eq!(answer.header("access-control-allow-origin"), origin, "{answer:?}");
            assert!(
                answer.header("access-control-expose-headers").to_ascii_lowercase().contains("x-request-id")
            );
        }
    }
    for origin in ["http://localhost:5001", "https://localhost:5000", "http://evil.example", "null"] {
        assert_eq!(preflight(origin, "/start").await.header("access-control-allow-origin"), "", "{origin}");
    }

    let gateway = world.gateway(&[("CORS_ORIGINS", "https://maps.example"), ("POD_NAME", "gateway-2")]).await;
    let answer = with(gateway.admin, "GET /status", "Origin: https://maps.example\r\n").await;
    assert_eq!(answer.json(), json!({}));
    assert_eq!(answer.header("access-control-allow-origin"), "https://maps.example");
    let answer = with(gateway.admin, "GET /status", "Origin: http://localhost:5000\r\n").await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
}
