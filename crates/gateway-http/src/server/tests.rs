//! Over real sockets: bounds, ends, certificates.

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::routing::get;
use http::StatusCode;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::config::Tls;
use crate::tls::Certificate;

const BOUNDS: Bounds = Bounds {
    connections_max: 100,
    connection_age_max: Duration::from_mins(10),
    header_read_timeout: Duration::from_secs(10),
    request_max: Duration::from_secs(10),
    streams_max: 10,
};

struct Running {
    address: SocketAddr,
    open: Gauge,
    close: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn start(router: Router, tls: Option<Arc<ServerConfig>>, bounds: Bounds) -> Running {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let address = listener.local_addr().expect("bound");
    let (close, closing) = watch::channel(false);
    let open = Gauge::default();
    let task = tokio::spawn(serve(
        listener,
        router,
        tls,
        bounds,
        open.clone(),
        closing,
        Duration::from_secs(5),
    ));
    Running {
        address,
        open,
        close,
        task,
    }
}

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

async fn exchange(stream: &mut TcpStream) -> String {
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("written");
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).await.expect("read");
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test]
async fn requests_under_way_finish_while_the_server_closes() {
    let (entered, mut has_entered) = mpsc::channel(1);
    let (release, released) = oneshot::channel::<()>();
    let released = Arc::new(tokio::sync::Mutex::new(Some(released)));
    let slow = get(move || async move {
        entered.send(()).await.expect("listening");
        released
            .lock()
            .await
            .take()
            .expect("once")
            .await
            .expect("released");
        "done"
    });
    let server = start(Router::new().route("/", slow), None, BOUNDS);
    let url = format!("http://{}/", server.address);
    let asking =
        tokio::spawn(async move { reqwest::get(url).await.expect("answered").text().await });
    has_entered.recv().await.expect("entered");
    server.close.send(true).expect("running");
    // Not before the listener is gone, so that the answer certainly comes after the closing began.
    while TcpStream::connect(server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    release.send(()).expect("waiting");
    assert_eq!(asking.await.expect("no panic").expect("whole"), "done");
    server.task.await.expect("ended");
}

#[test]
fn callers_leave_files_for_the_gateways_own_connections() {
    let within = |files| BOUNDS.within(files, 30).connections_max;
    assert_eq!(within(None), 100);
    assert_eq!(within(Some(130)), 100);
    assert_eq!(within(Some(129)), 99);
    assert_eq!(within(Some(7)), 1);
}

#[tokio::test]
async fn a_slow_head_ends_its_connection() {
    let bounds = Bounds {
        header_read_timeout: Duration::from_millis(50),
        ..BOUNDS
    };
    let server = start(hello(), None, bounds);
    let mut stream = TcpStream::connect(server.address).await.expect("connected");
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost:")
        .await
        .expect("written");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("closed");
    assert!(
        rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"),
        "{}",
        String::from_utf8_lossy(&rest)
    );
}

/// A caller may take its time before its first request, but not for ever: a place would be gone.
async fn is_cut_off(mut stream: impl AsyncRead + Unpin, after: &str) {
    let mut rest = Vec::new();
    // Cut off by a reset as well as by an end.
    let cut = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
    assert!(cut.is_ok(), "still open after {after}");
    assert!(!rest.starts_with(b"HTTP/1.1 200"), "answered after {after}");
}

#[tokio::test]
async fn who_asks_for_nothing_is_cut_off() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    // The first bytes of a request: HEADERS that END_HEADERS never follows.
    const HEADERS: &[u8] = &[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];
    let bounds = Bounds {
        header_read_timeout: Duration::from_millis(50),
        ..BOUNDS
    };
    let server = start(hello(), None, bounds);
    for (what, sent) in [
        ("silence", vec![]),
        ("a part of a preface", b"PRI *".to_vec()),
        ("a preface", PREFACE.to_vec()),
        ("settings", [PREFACE, SETTINGS].concat()),
        ("a part of a head", [PREFACE, SETTINGS, HEADERS].concat()),
    ] {
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        stream.write_all(&sent).await.expect("written");
        is_cut_off(stream, what).await;
    }
}

#[tokio::test]
async fn who_asks_for_nothing_after_a_handshake_is_cut_off() {
    let files = Files::new("silent");
    let trusted = CertificateDer::from_pem_slice(files.renew().as_bytes()).expect("PEM");
    let certificate = Certificate::load(&files.0).expect("usable");
    let server = start(
        hello(),
        Some(certificate.server_config().expect("usable")),
        Bounds {
            header_read_timeout: Duration::from_millis(50),
            ..BOUNDS
        },
    );
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    for sent in ["", "PRI *"] {
        let stream = TcpStream::connect(server.address).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut stream = connector.connect(name, stream).await.expect("trusted");
        stream.write_all(sent.as_bytes()).await.expect("written");
        stream.flush().await.expect("written");
        is_cut_off(stream, "a handshake").await;
    }
}

#[tokio::test]
async fn who_does_not_read_its_answer_loses_its_place() {
    // More than the buffers of both sockets hold.
    let endless = get(async || vec![b'x'; 64 * 1024 * 1024]);
    let server = start(
        hello().route("/endless", endless),
        None,
        Bounds {
            connections_max: 1,
            connection_age_max: Duration::from_millis(500),
            header_read_timeout: Duration::from_millis(500),
            request_max: Duration::from_millis(500),
            ..BOUNDS
        },
    );
    let mut deaf = TcpStream::connect(server.address).await.expect("connected");
    deaf.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("written");
    deaf.readable().await.expect("its answer has begun");
    let mut next = TcpStream::connect(server.address).await.expect("queued");
    let answer = timeout(Duration::from_secs(10), exchange(&mut next)).await;
    assert!(answer.expect("a place").contains("hello"));
}

#[tokio::test]
async fn an_old_connection_is_closed_after_an_answer() {
    let bounds = Bounds {
        connection_age_max: Duration::from_secs(1),
        ..BOUNDS
    };
    let server = start(hello(), None, bounds);
    let mut stream = TcpStream::connect(server.address).await.expect("connected");
    assert!(exchange(&mut stream).await.contains("hello"));
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("closed by age");
    assert!(rest.is_empty());
}

#[tokio::test]
async fn at_the_bound_new_connections_wait_for_a_place() {
    let server = start(
        hello(),
        None,
        Bounds {
            connections_max: 1,
            ..BOUNDS
        },
    );
    let mut first = TcpStream::connect(server.address).await.expect("connected");
    assert!(exchange(&mut first).await.contains("hello"));
    let mut second = TcpStream::connect(server.address)
        .await
        .expect("in the kernel's queue");
    second
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("written");
    let mut one = [0; 1];
    let unanswered = timeout(Duration::from_millis(100), second.read(&mut one)).await;
    assert!(unanswered.is_err(), "there is no place yet");
    assert_eq!(server.open.get(), 1);
    drop(first);
    assert_eq!(second.read(&mut one).await.expect("answered"), 1);
}

struct Files(Tls);

impl Files {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("quittance-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("made");
        Self(Tls {
            certificate_file: folder.join("crt"),
            key_file: folder.join("key"),
            reload_every: Duration::from_mins(1),
        })
    }

    /// A new self-signed certificate for localhost, as PEM.
    fn renew(&self) -> String {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("made");
        std::fs::write(&self.0.certificate_file, made.cert.pem()).expect("written");
        std::fs::write(&self.0.key_file, made.signing_key.serialize_pem()).expect("written");
        made.cert.pem()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let folder: PathBuf = self.0.key_file.parent().expect("a folder").to_owned();
        let _ = std::fs::remove_dir_all(folder);
    }
}

fn trusting(certificate: &str, address: SocketAddr) -> reqwest::Client {
    reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(certificate.as_bytes()).expect("PEM")])
        .resolve("localhost", address)
        .no_proxy()
        .build()
        .expect("a client")
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let files = Files::new("renewed");
    let old = files.renew();
    let certificate = Certificate::load(&files.0).expect("usable");
    let server = start(
        hello(),
        Some(certificate.server_config().expect("usable")),
        BOUNDS,
    );
    let url = format!("https://localhost:{}/", server.address.port());
    let answer = trusting(&old, server.address)
        .get(&url)
        .send()
        .await
        .expect("trusted");
    assert_eq!(answer.status(), StatusCode::OK);

    let new = files.renew();
    certificate.reload().expect("usable");
    assert!(
        trusting(&new, server.address)
            .get(&url)
            .send()
            .await
            .is_ok()
    );
    assert!(
        trusting(&old, server.address)
            .get(&url)
            .send()
            .await
            .is_err(),
        "the old one is gone"
    );

    // Between the two writes of a rotation the pair does not match: what works stays.
    std::fs::write(
        &files.0.key_file,
        rcgen::KeyPair::generate().expect("key").serialize_pem(),
    )
    .expect("written");
    assert!(certificate.reload().is_err());
    assert!(
        trusting(&new, server.address)
            .get(&url)
            .send()
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn plain_http_on_a_tls_port_gets_no_answer() {
    let files = Files::new("plain");
    files.renew();
    let certificate = Certificate::load(&files.0).expect("usable");
    let server = start(
        hello(),
        Some(certificate.server_config().expect("usable")),
        BOUNDS,
    );
    let answer = reqwest::get(format!("http://{}/", server.address)).await;
    assert!(answer.is_err());
}

#[tokio::test]
async fn http2_is_spoken_too() {
    let server = start(hello(), None, BOUNDS);
    let stream = TcpStream::connect(server.address).await.expect("connected");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = Request::get("http://x/")
        .body(axum::body::Body::empty())
        .expect("a request");
    let answer = sender.send_request(request).await.expect("answered");
    assert_eq!(answer.status(), StatusCode::OK);
    server.close.send(true).expect("running");
    connection
        .await
        .expect("no panic")
        .expect("closed in good order");
}

#[tokio::test]
async fn at_the_bound_a_stream_waits_for_another_to_end() {
    let (entered, mut has_entered) = mpsc::unbounded_channel();
    let released = Arc::new(Semaphore::new(0));
    let slow = {
        let released = Arc::clone(&released);
        get(move || async move {
            entered.send(()).expect("listening");
            released.acquire().await.expect("open").forget();
            "done"
        })
    };
    let server = start(hello().route("/slow", slow), None, BOUNDS);
    let stream = TcpStream::connect(server.address).await.expect("connected");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let request = |path: &str| {
        Request::get(format!("http://x{path}"))
            .body(axum::body::Body::empty())
            .expect("a request")
    };
    // With the first answer the caller has learned the bound.
    sender.send_request(request("/")).await.expect("answered");
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..=BOUNDS.streams_max {
        asking.spawn(sender.send_request(request("/slow")));
    }
    for _ in 0..BOUNDS.streams_max {
        has_entered.recv().await.expect("entered");
    }
    let one_more = timeout(Duration::from_millis(100), has_entered.recv()).await;
    assert!(one_more.is_err(), "there is no place yet");
    released.add_permits(1);
    has_entered.recv().await.expect("entered at last");
    released.add_permits(10);
    for answer in asking.join_all().await {
        assert_eq!(answer.expect("answered").status(), StatusCode::OK);
    }
}
