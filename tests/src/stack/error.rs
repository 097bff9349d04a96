//! Why the surroundings of a test could not be set up.

use std::error::Error;
use std::fmt;

/// One sentence about what was being done, and its cause. `Debug` prints both in words, because that is what a failing
/// `expect`, or a test that returns the error, shows.
pub struct StackError {
    doing: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl StackError {
    pub fn new(doing: impl Into<String>) -> Self {
        Self {
            doing: doing.into(),
            source: None,
        }
    }
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}

impl fmt::Debug for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for StackError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_ref()
            .map(|source| &**source as &(dyn Error + 'static))
    }
}

/// Adds to any error what was being done.
pub trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, StackError>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, StackError> {
        self.map_err(|error| StackError {
            doing: what(),
            source: Some(error.into()),
        })
    }
}
