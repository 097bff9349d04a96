//! A certificate for loopback, made afresh, so that a simulated processor can be reached over TLS.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

/// What the server needs, and what a caller has to trust.
#[derive(Clone, Debug)]
pub struct LoopbackTls {
    /// For `Options::tls`.
    pub server: Arc<ServerConfig>,
    /// The certificate to trust, as PEM.
    pub root_pem: String,
}

impl LoopbackTls {
    /// For `localhost` and `127.0.0.1`; TLS 1.2 and 1.3, HTTP/1.1.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn new() -> io::Result<Self> {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])
            .and_then(|builder| {
                let builder = builder.with_no_client_auth();
                builder.with_single_cert(vec![made.cert.der().clone()], key)
            })
            .map_err(io::Error::other)?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            server: Arc::new(server),
            root_pem: made.cert.pem(),
        })
    }
}
