//! The login of one account: where it comes from, and the passwords that were used lately, which an answer may repeat.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use secrecy::{ExposeSecret, SecretString};

/// The present one, and the one before it: answers to it may still be under way when it is replaced.
const LATELY_MAX: usize = 2;

/// User name and password of one account.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub username: SecretString,
    pub password: SecretString,
}

/// Where the login comes from; read for every token, so that a changed secret needs no restart.
pub trait CredentialSource: Send + Sync + fmt::Debug {
    /// # Errors
    /// Why there is none, without the secret: a file that cannot be read, a variable that is not set.
    fn credentials(&self) -> Result<Credentials, String>;
}

impl CredentialSource for Credentials {
    fn credentials(&self) -> Result<Credentials, String> {
        Ok(self.clone())
    }
}

/// A source that remembers, so that no answer has to wait for a file.
#[derive(Debug)]
pub struct Login {
    source: Box<dyn CredentialSource>,
    /// The newest first.
    lately: Mutex<Arc<[SecretString]>>,
}

impl Login {
    pub fn new(source: impl CredentialSource + 'static) -> Arc<Self> {
        Arc::new(Self {
            source: Box::new(source),
            lately: Mutex::new(Arc::new([])),
        })
    }

    /// Reads the source.
    pub(super) fn credentials(&self) -> Result<Credentials, String> {
        let read = self.source.credentials()?;
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        let password = read.password.expose_secret();
        if lately.first().map(ExposeSecret::expose_secret) != Some(password) {
            let newest = std::iter::once(&read.password);
            *lately = newest.chain(&**lately).take(LATELY_MAX).cloned().collect();
        }
        Ok(read)
    }

    /// Those used lately. Reads the source only where no token was fetched here so far: another replica may have.
    pub(super) fn passwords(&self) -> Arc<[SecretString]> {
        let known = self.known();
        if known.is_empty() && self.credentials().is_ok() {
            self.known()
        } else {
            known
        }
    }

    fn known(&self) -> Arc<[SecretString]> {
        let lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&lately)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Another password each time.
    #[derive(Debug, Default)]
    struct Rotating(AtomicU32);

    impl CredentialSource for Rotating {
        fn credentials(&self) -> Result<Credentials, String> {
            let read = self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Credentials {
                username: "cashier".into(),
                password: format!("password-{read}").into(),
            })
        }
    }

    fn passwords(login: &Login) -> Vec<String> {
        let known = login.passwords();
        let texts = known.iter().map(|known| known.expose_secret().to_owned());
        texts.collect()
    }

    #[test]
    fn the_password_before_the_present_one_is_remembered_and_the_source_left_alone() {
        let login = Login::new(Rotating::default());
        for _ in 0..2 {
            assert_eq!(passwords(&login), ["password-0"]);
        }
        for _ in 0..2 {
            login.credentials().expect("read");
        }
        assert_eq!(passwords(&login), ["password-2", "password-1"]);
    }
}
