//! Opening one connection: name, TCP, TLS, HTTP.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, ProtocolVersion, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::config::{PoolConfig, PoolError, Resolve, Roots};
use super::wire::{Layer, Socket, Stream, Wire};

/// A larger head is no answer of a payment API. hyper itself bounds the count of headers, at 100.
const HEAD_BYTES_MAX: usize = 16 * 1_024;
/// What hyper may hold of an answer that is being read.
const BUFFER_BYTES_MAX: usize = 64 * 1_024;

pub(super) type Sender = http1::SendRequest<Full<Bytes>>;
pub(super) type Driver = http1::Connection<TokioIo<Stream>, Full<Bytes>>;

/// A connection that is ready for its first request.
pub(super) struct Opened {
    pub(super) sender: Sender,
    pub(super) driver: Driver,
    pub(super) wire: Arc<Wire>,
    pub(super) address: SocketAddr,
    /// The protocol version agreed on.
    pub(super) tls: Option<&'static str>,
}

/// Where connections go, and how.
pub(super) struct Opener {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    resolver: Arc<dyn Resolve>,
    timeout: Duration,
    http: http1::Builder,
}

impl Opener {
    pub(super) fn new(config: &PoolConfig) -> Result<Self, PoolError> {
        let fault = |fault: &str| PoolError::Faults {
            name: config.name.clone(),
            faults: vec![fault.to_owned()],
        };
        let host = config
            .base
            .host()
            .ok_or_else(|| fault("base must name a host"))?;
        // A literal IPv6 address stands in brackets in a URI, and nowhere else.
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let encrypted = config.base.scheme() == Some(&Scheme::HTTPS);
        let tls = if encrypted {
            let name = ServerName::try_from(host.clone())
                .map_err(|_| fault("base names no valid host"))?;
            Some((TlsConnector::from(Arc::new(client_config(config)?)), name))
        } else {
            None
        };
        let mut http = http1::Builder::new();
        http.max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES_MAX);
        Ok(Self {
            host,
            port: config
                .base
                .port_u16()
                .unwrap_or(if encrypted { 443 } else { 80 }),
            tls,
            resolver: Arc::clone(&config.resolver),
            timeout: config.connect_timeout,
            http,
        })
    }

    /// Asks for the host's addresses anew and tries them in order; each gets an equal share of the time that is left, so
    /// that one that swallows packets does not use it all. The error says what failed, for people.
    pub(super) async fn open(&self) -> Result<Opened, String> {
        let deadline = Instant::now() + self.timeout;
        let asked = timeout_at(deadline, self.resolver.resolve(&self.host, self.port)).await;
        let addresses = asked
            .map_err(|_| format!("resolving {} took too long", self.host))?
            .map_err(|error| format!("cannot resolve {}: {error}", self.host))?;
        let mut failure = format!("{} has no address", self.host);
        for (index, &address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let shares = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            match timeout_at(Instant::now() + left / shares, self.open_at(address)).await {
                Ok(Ok(opened)) => return Ok(opened),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = format!("connecting to {address} took too long"),
            }
        }
        Err(failure)
    }

    async fn open_at(&self, address: SocketAddr) -> Result<Opened, String> {
        let tcp = TcpStream::connect(address)
            .await
            .map_err(|error| format!("cannot connect to {address}: {error}"))?;
        // One request is one write: waiting for more to come would only delay it.
        tcp.set_nodelay(true)
            .map_err(|error| format!("cannot set up the socket: {error}"))?;
        let wire = Arc::new(Wire::default());
        let socket = Socket::new(tcp, Arc::clone(&wire));
        let (layer, tls) = match &self.tls {
            None => (Layer::Plain(socket), None),
            Some((connector, name)) => {
                let stream = connector
                    .connect(name.clone(), socket)
                    .await
                    .map_err(|error| format!("no TLS with {} at {address}: {error}", self.host))?;
                let version = stream.get_ref().1.protocol_version().map(version_name);
                (Layer::Tls(Box::new(stream)), version)
            }
        };
        let io = TokioIo::new(Stream::new(layer, Arc::clone(&wire)));
        let shaken = self.http.handshake(io).await;
        let (sender, driver) =
            shaken.map_err(|error| format!("no HTTP with {address}: {error}"))?;
        Ok(Opened {
            sender,
            driver,
            wire,
            address,
            tls,
        })
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({}:{})", self.host, self.port)
    }
}

fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "TLSv1_2",
        ProtocolVersion::TLSv1_3 => "TLSv1_3",
        _ => "other", // Never agreed on: only these two are offered.
    }
}

fn client_config(config: &PoolConfig) -> Result<ClientConfig, PoolError> {
    let fault = |detail: String| PoolError::Roots {
        name: config.name.clone(),
        detail,
    };
    let mut roots = RootCertStore::empty();
    match &config.roots {
        Roots::System => {
            let loaded = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(loaded.certs);
            if added == 0 {
                return Err(fault(format!(
                    "the system's store gave none: {:?}",
                    loaded.errors
                )));
            }
        }
        Roots::PemFile(path) => {
            let named = |error: &dyn fmt::Display| fault(format!("{}: {error}", path.display()));
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| named(&error))? {
                let certificate = certificate.map_err(|error| named(&error))?;
                roots.add(certificate).map_err(|error| named(&error))?;
            }
            if roots.is_empty() {
                return Err(named(&"no certificate in it"));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| fault(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}
