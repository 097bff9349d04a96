//! TLS: whom the pool trusts, which versions it speaks, and that nothing leaves when either is wrong.

use std::path::PathBuf;
use std::sync::Arc;

use gateway_core::connector::{Ended, NotSent};
use gateway_upstream::pool::{CallFailure, PoolConfig, Roots};
use rustls::{ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::PrivateKeyDer;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::server::{Peer, Server};
use super::{CountingResolver, config, pool, post, post_open, text};

/// A self-signed certificate, and the file that makes a client trust it.
struct Identity {
    certified: rcgen::CertifiedKey<rcgen::KeyPair>,
    file: PathBuf,
}

impl Identity {
    fn new(name: &str) -> Self {
        let certified =
            rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a valid name");
        let unique = format!("quittance-pool-{}-{name}.pem", uuid());
        let file = std::env::temp_dir().join(unique);
        std::fs::write(&file, certified.cert.pem())
            .expect("the system's temporary folder is writable");
        Self { certified, file }
    }

    fn acceptor(&self, versions: &[&'static SupportedProtocolVersion], alpn: &[u8]) -> TlsAcceptor {
        let key =
            PrivateKeyDer::try_from(self.certified.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("supported versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certified.cert.der().clone()], key)
            .expect("key and certificate fit");
        tls.alpn_protocols = vec![alpn.to_vec()];
        TlsAcceptor::from(Arc::new(tls))
    }

    fn trusted(&self) -> Roots {
        Roots::PemFile(self.file.clone())
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        // A leftover in the temporary folder harms nobody.
        let _ = std::fs::remove_file(&self.file);
    }
}

fn uuid() -> String {
    format!("{:032x}", rand::random::<u128>())
}

const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12, &rustls::version::TLS13];

fn settings(server: &Server, host: &str, roots: Roots) -> PoolConfig {
    let base = format!("https://{host}").parse().expect("a URI");
    PoolConfig {
        roots,
        resolver: CountingResolver::new(server.address),
        ..config(base)
    }
}

fn assert_nothing_left(exchange: &gateway_upstream::pool::Exchange, server: &Server) {
    let failure = exchange.result.as_ref().expect_err("no TLS");
    assert!(
        matches!(failure, CallFailure::NotSent(NotSent::Unreachable { .. })),
        "{failure:?}"
    );
    assert_eq!(
        (exchange.evidence.ended, exchange.evidence.bytes_written),
        (Ended::NoConnection, 0)
    );
    assert_eq!(server.request_count(), 0);
}

#[tokio::test]
async fn a_request_travels_under_the_newest_version_both_speak() {
    for (versions, spoken) in [(BOTH, "TLSv1_3"), (&BOTH[..1], "TLSv1_2")] {
        let identity = Identity::new("processor.test");
        let server = Server::start_tls(identity.acceptor(versions, b"http/1.1"), Peer::serve).await;
        let pool = pool(settings(&server, "processor.test", identity.trusted()));
        let first = post_open(&pool).await;
        let second = post_open(&pool).await;
        assert_eq!((text(&first), text(&second)), ("0/1", "0/2"));
        assert_eq!(second.evidence.tls.as_deref(), Some(spoken));
        assert!(second.evidence.reused);
        let sent = server.read(|log| log.connections[0].bytes);
        assert_eq!(
            first.evidence.bytes_written + second.evidence.bytes_written,
            sent as u64,
            "the request's own bytes"
        );
    }
}

#[tokio::test]
async fn a_gate_that_refuses_lets_nothing_out_under_tls_either() {
    struct Shut;
    impl gateway_core::connector::SendGate for Shut {
        fn may_send(&self) -> Result<(), NotSent> {
            Err(NotSent::CancelRequested)
        }
    }
    let identity = Identity::new("processor.test");
    let server = Server::start_tls(identity.acceptor(BOTH, b"http/1.1"), Peer::serve).await;
    let pool = pool(settings(&server, "processor.test", identity.trusted()));
    let refused = post(&pool, &Shut).await;
    assert_eq!(
        refused.result.expect_err("refused"),
        CallFailure::NotSent(NotSent::CancelRequested)
    );
    let next = post_open(&pool).await;
    assert_eq!(text(&next), "0/1");
    assert_eq!(
        server.read(|log| log.connections[0].bytes) as u64,
        next.evidence.bytes_written
    );
}

#[tokio::test]
async fn connections_closed_while_idle_under_tls_cost_no_call() {
    let identity = Identity::new("processor.test");
    let close = Arc::new(Notify::new());
    let script = {
        let close = Arc::clone(&close);
        move |mut peer: Peer| {
            let close = Arc::clone(&close);
            async move {
                peer.request().await;
                peer.answer("200 OK", &peer.index.to_string()).await;
                close.notified().await;
                peer.close().await;
            }
        }
    };
    let server = Server::start_tls(identity.acceptor(BOTH, b"http/1.1"), script).await;
    let pool = pool(settings(&server, "processor.test", identity.trusted()));
    for index in 0..10 {
        assert_eq!(text(&post_open(&pool).await), index.to_string());
        close.notify_one();
        server
            .until(|log| log.connections[index].ended.is_some())
            .await;
    }
}

#[tokio::test]
async fn a_certificate_nobody_vouches_for_is_not_sent() {
    let (identity, other) = (
        Identity::new("processor.test"),
        Identity::new("processor.test"),
    );
    let server = Server::start_tls(identity.acceptor(BOTH, b"http/1.1"), Peer::serve).await;
    let pool = pool(settings(&server, "processor.test", other.trusted()));
    assert_nothing_left(&post_open(&pool).await, &server);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_sent() {
    let identity = Identity::new("processor.test");
    let server = Server::start_tls(identity.acceptor(BOTH, b"http/1.1"), Peer::serve).await;
    let pool = pool(settings(&server, "other.test", identity.trusted()));
    assert_nothing_left(&post_open(&pool).await, &server);
}

#[tokio::test]
async fn a_server_that_speaks_another_http_is_not_sent() {
    let identity = Identity::new("processor.test");
    let server = Server::start_tls(identity.acceptor(BOTH, b"h2"), Peer::serve).await;
    let pool = pool(settings(&server, "processor.test", identity.trusted()));
    assert_nothing_left(&post_open(&pool).await, &server);
}

#[tokio::test]
async fn tls_1_1_is_not_sent() {
    // A complete ServerHello of TLS 1.1 (RFC 4346, 7.4.1.3): random of zeros, no session, RSA with AES-128-CBC-SHA.
    let mut hello = vec![0x16, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    hello.extend([0; 32]);
    hello.extend([0, 0x00, 0x2f, 0]);
    let identity = Identity::new("processor.test");
    let server = Server::start(move |mut peer: Peer| {
        let hello = hello.clone();
        async move {
            peer.send_bytes(&hello).await;
            peer.drain().await;
        }
    })
    .await;
    let pool = pool(settings(&server, "processor.test", identity.trusted()));
    let exchange = post_open(&pool).await;
    assert_nothing_left(&exchange, &server);
    let CallFailure::NotSent(NotSent::Unreachable { detail }) =
        exchange.result.expect_err("no TLS")
    else {
        panic!()
    };
    assert!(detail.contains("no TLS"), "{detail}");
}

#[test]
fn roots_that_cannot_be_read_are_a_fault_at_start() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let _inside = runtime.enter();
    let roots = Roots::PemFile("/nonexistent/roots.pem".into());
    let settings = PoolConfig {
        roots,
        ..config("https://processor.test".parse().expect("a URI"))
    };
    let metrics = gateway_upstream::pool::PoolMetrics::register(
        &mut prometheus_client::registry::Registry::default(),
    );
    let error = gateway_upstream::pool::Pool::new(
        settings,
        Arc::new(gateway_core::clock::SystemClock),
        &metrics,
    );
    let error = error.expect_err("no such file").to_string();
    assert!(error.contains("/nonexistent/roots.pem"), "{error}");
}
