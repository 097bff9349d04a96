//! The same faults below and above TLS.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Caller, sale, sale_path, started};
use crate::simulators::connexpay::verb;
use crate::simulators::tls::LoopbackTls;
use crate::simulators::{Fault, Kind, Options, Simulators};

async fn shake_hands(simulators: &Simulators, tls: &LoopbackTls) -> io::Result<Caller> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(tls.root_pem.as_bytes()).expect("PEM");
    roots.add(root).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TcpStream::connect(simulators.address()).await?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    Ok(Caller::over(stream))
}

async fn over_tls() -> (Simulators, LoopbackTls) {
    let tls = LoopbackTls::new().expect("a certificate");
    let options = Options {
        tls: Some(Arc::clone(&tls.server)),
        ..Options::default()
    };
    (started(options).await, tls)
}

#[tokio::test]
async fn a_sale_and_its_lost_answers_over_tls() {
    let (simulators, tls) = over_tls().await;
    assert!(simulators.connexpay_url().starts_with("https://"));
    let mut caller = shake_hands(&simulators, &tls).await.expect("a connection");
    caller.log_in().await;
    assert_eq!(caller.post("sales", &sale("10", "A1")).await.status, 200);

    let upstream = simulators.connexpay();
    upstream
        .set_fault(Fault::on(Kind::CommitThenTruncate, verb::SALE))
        .await
        .expect("in force");
    caller
        .write("POST", sale_path(), &sale("11", "A2").to_string())
        .await
        .expect("written");
    assert_eq!(
        caller.read().await.expect_err("half an answer").kind(),
        ErrorKind::UnexpectedEof
    );

    let mut next = shake_hands(&simulators, &tls).await.expect("a connection");
    next.token = caller.token;
    upstream
        .set_fault(Fault::on(Kind::CommitThenReset, verb::SALE))
        .await
        .expect("in force");
    next.write("POST", sale_path(), &sale("12", "A3").to_string())
        .await
        .expect("written");
    assert_eq!(
        next.read().await.expect_err("no answer").kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(upstream.books().net(), 3300);
}

#[tokio::test]
async fn a_reset_on_accept_interrupts_the_handshake() {
    let (simulators, tls) = over_tls().await;
    simulators
        .connexpay()
        .set_fault(Fault::new(Kind::ResetOnAccept).first(1))
        .await
        .expect("in force");
    assert!(shake_hands(&simulators, &tls).await.is_err());
    assert!(shake_hands(&simulators, &tls).await.is_ok());
    let seen = simulators.connections();
    assert_eq!((seen[0].ended_by, seen[0].requests), (Some("reset"), 0));
}

#[tokio::test]
async fn whoever_speaks_plain_text_is_turned_away() {
    let (simulators, _tls) = over_tls().await;
    let mut caller = Caller::connect(simulators.address())
        .await
        .expect("a connection");
    caller
        .write("GET", "/connexpay/api/v1/devices", "")
        .await
        .expect("written");
    assert!(caller.read().await.is_err());
    simulators
        .wait_for_connections(|seen| seen[0].ended_by == Some("tls"))
        .await
        .expect("seen");
}
