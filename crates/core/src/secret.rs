//! A secret that is read anew whenever it is needed: it may change while the process runs.

use std::fmt;
use std::sync::Arc;

use secrecy::SecretString;

/// Where a password comes from. Whoever opens a connection with it asks anew.
#[derive(Clone)]
pub struct Secret(Arc<dyn Fn() -> Result<SecretString, String> + Send + Sync>);

impl Secret {
    /// `read` is called for each use. Its error says where the secret should be, never what was found there.
    pub fn new(read: impl Fn() -> Result<SecretString, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// As it is now.
    ///
    /// # Errors
    /// Why it cannot be read, for people.
    pub fn read(&self) -> Result<SecretString, String> {
        self.0()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(****)")
    }
}
