//! Secrets by reference: the configuration names a file or an environment variable and never holds the secret itself.

use std::fmt;
use std::path::{Path, PathBuf};

use gateway_core::secret::Secret;
use secrecy::SecretString;
use secrecy::zeroize::Zeroize;

/// A secret is a password or a key, not a document.
const BYTES_MAX: u64 = 64 * 1024;

/// Where a secret is. Read anew whenever it is needed, so that a rotated file takes effect without a restart. (The
/// environment of a process never changes.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    File(PathBuf),
    Env(String),
}

/// Why a secret could not be read. Says where it should be, never what was found there.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{0} cannot be read")]
    File(PathBuf, #[source] std::io::Error),
    #[error("the environment variable {0} is not set")]
    NotSet(String),
    #[error("{0} is not UTF-8 text")]
    NotText(SecretRef),
    #[error("{0} is empty")]
    Empty(SecretRef),
    #[error("{0} is larger than {BYTES_MAX} bytes")]
    TooLarge(PathBuf),
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Env(name) => write!(f, "the environment variable {name}"),
        }
    }
}

impl SecretRef {
    /// The secret, without the line break that editors leave at a file's end.
    ///
    /// # Errors
    /// `SecretError`. This does block on the file system: secrets are small files on local disks.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        let mut text = match self {
            Self::File(path) => read_file(path)?,
            Self::Env(name) => match std::env::var(name) {
                Ok(text) => text,
                Err(std::env::VarError::NotPresent) => {
                    return Err(SecretError::NotSet(name.clone()));
                }
                Err(std::env::VarError::NotUnicode(_)) => {
                    return Err(SecretError::NotText(self.clone()));
                }
            },
        };
        let secret = SecretString::from(text.trim_end_matches(['\r', '\n']));
        let empty = text.trim().is_empty();
        text.zeroize();
        if empty {
            Err(SecretError::Empty(self.clone()))
        } else {
            Ok(secret)
        }
    }
}

/// Read anew by whoever uses it.
impl From<SecretRef> for Secret {
    fn from(secret: SecretRef) -> Self {
        Self::new(move || secret.read().map_err(|error| error.to_string()))
    }
}

fn read_file(path: &Path) -> Result<String, SecretError> {
    let failed = |error| SecretError::File(path.to_owned(), error);
    if std::fs::metadata(path).map_err(failed)?.len() > BYTES_MAX {
        return Err(SecretError::TooLarge(path.to_owned()));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    String::from_utf8(bytes).map_err(|error| {
        error.into_bytes().zeroize();
        SecretError::NotText(SecretRef::File(path.to_owned()))
    })
}

/// The reference that a pair of `NAME_file` and `NAME_env` makes; both at once is a fault.
pub(super) fn pick(
    name: &str,
    file: Option<&PathBuf>,
    env: Option<&String>,
    faults: &mut Vec<String>,
) -> Option<SecretRef> {
    match (file, env) {
        (None, None) => None,
        (Some(path), None) => Some(SecretRef::File(path.clone())),
        (None, Some(variable)) => Some(SecretRef::Env(variable.clone())),
        (Some(_), Some(_)) => {
            faults.push(format!("{name}_file and {name}_env exclude each other"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn temporary(name: &str, content: &[u8]) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("quittance-secret-{}-{name}", std::process::id()));
        std::fs::write(&path, content).expect("written");
        path
    }

    #[test]
    fn a_file_is_read_anew_each_time() {
        let path = temporary("rotated", b"first\n");
        let secret = SecretRef::File(path.clone());
        assert_eq!(secret.read().expect("read").expose_secret(), "first");
        std::fs::write(&path, "second\r\n").expect("written");
        assert_eq!(secret.read().expect("read").expose_secret(), "second");
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn what_is_no_secret_is_refused_without_being_shown() {
        let empty = temporary("empty", b"\n");
        let binary = temporary("binary", b"\xff\xfehunter2");
        assert!(matches!(
            SecretRef::File(empty.clone()).read(),
            Err(SecretError::Empty(_))
        ));
        let error = SecretRef::File(binary.clone())
            .read()
            .expect_err("not text");
        assert!(!format!("{error:?} {error}").contains("hunter2"));
        assert!(matches!(
            SecretRef::File("/nowhere/at/all".into()).read(),
            Err(SecretError::File(..))
        ));
        assert!(matches!(
            SecretRef::Env("QUITTANCE_NOT_SET_ANYWHERE".into()).read(),
            Err(SecretError::NotSet(_))
        ));
        std::fs::remove_file(empty).expect("removed");
        std::fs::remove_file(binary).expect("removed");
    }

    #[test]
    fn a_secret_has_one_place() {
        let mut faults = Vec::new();
        let (file, env) = (PathBuf::from("f"), "E".to_owned());
        assert_eq!(
            pick("x", Some(&file), None, &mut faults),
            Some(SecretRef::File(file.clone()))
        );
        assert_eq!(
            pick("x", None, Some(&env), &mut faults),
            Some(SecretRef::Env(env.clone()))
        );
        assert_eq!(pick("x", None, None, &mut faults), None);
        assert!(faults.is_empty());
        assert_eq!(pick("x", Some(&file), Some(&env), &mut faults), None);
        assert_eq!(faults, ["x_file and x_env exclude each other"]);
    }
}
