//! What a database says when it fails, as its code alone: its text repeats rows, and whatever a trigger puts there.

use std::error::Error;

/// A database's error without its text, which is dropped where it arrives: no log can repeat it, however it is written.
#[derive(Debug, thiserror::Error)]
#[error("{family} {code}")]
pub(super) struct DatabaseCode {
    /// Whose codes these are: `SQLSTATE`.
    family: &'static str,
    code: String,
}

impl DatabaseCode {
    pub(super) fn boxed(
        family: &'static str,
        error: &dyn sqlx::error::DatabaseError,
    ) -> Box<dyn Error + Send + Sync> {
        let code = error.code().unwrap_or("unknown".into()).into_owned();
        Box::new(Self { family, code })
    }
}

/// The code of a cause, as the end of a sentence about it. Who was refused a connection had asked nothing yet: that error
/// keeps its text, which says what to set right.
pub(super) fn of(cause: &(dyn Error + Send + Sync + 'static)) -> String {
    if let Some(code) = cause.downcast_ref::<DatabaseCode>() {
        return format!(": {code}");
    }
    let refused = cause.downcast_ref::<sqlx::Error>();
    let refused = refused.and_then(sqlx::Error::as_database_error);
    let code = refused.and_then(sqlx::error::DatabaseError::code);
    code.map(|code| format!(": SQLSTATE {code}"))
        .unwrap_or_default()
}
