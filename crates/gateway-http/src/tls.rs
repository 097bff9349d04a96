//! The certificate callers see, replaced while connections go on.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::Tls;

/// Why a certificate cannot be used. The old one stays in use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0} cannot be read as PEM")]
    Pem(PathBuf, #[source] rustls_pki_types::pem::Error),
    #[error("{0} holds no certificate")]
    NoCertificate(PathBuf),
    #[error("the certificate and its key cannot be used together")]
    Unusable(#[from] rustls::Error),
}

/// A certificate and its key, read from files that may change.
#[derive(Debug)]
pub struct Certificate {
    files: Tls,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    pub fn load(files: &Tls) -> Result<Arc<Self>, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let current = RwLock::new(Arc::new(read(files, &provider)?));
        Ok(Arc::new(Self {
            files: files.clone(),
            provider,
            current,
        }))
    }

    /// The server's side of TLS 1.2 and 1.3, offering HTTP/2 and HTTP/1.1.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Reads both files again. What does not fit together leaves the old pair in use: a rotation writes two files,
    /// and we may look between the two.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = Arc::new(read(&self.files, &self.provider)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Looks at the files for ever, and reloads when they changed.
    pub async fn keep_fresh(&self) {
        let mut seen = self.changed_at();
        loop {
            tokio::time::sleep(self.files.reload_every.max(Duration::from_millis(100))).await;
            let found = self.changed_at();
            if found == seen {
                continue;
            }
            match self.reload() {
                Ok(()) => {
                    seen = found;
                    tracing::info!("the server's certificate was replaced");
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the server's certificate stays as it is"
                    );
                }
            }
        }
    }

    fn changed_at(&self) -> [Option<SystemTime>; 2] {
        [&self.files.certificate_file, &self.files.key_file].map(|path| {
            std::fs::metadata(path)
                .and_then(|metadata| metadata.modified())
                .ok()
        })
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.current.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

fn read(files: &Tls, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let path = &files.certificate_file;
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| TlsError::Pem(path.clone(), error))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(path.clone()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key_file)
        .map_err(|error| TlsError::Pem(files.key_file.clone(), error))?;
    let certified = CertifiedKey::from_der(chain, key, provider)?;
    certified.keys_match()?;
    Ok(certified)
}
