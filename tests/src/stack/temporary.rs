//! A folder that ends with the test that made it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Doing, StackError};

/// A new empty folder, readable by its owner alone; removed with everything in it on drop. A panicking test keeps its
/// folder and says where it is.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// `purpose` becomes part of the name.
    pub fn new(purpose: &str) -> Result<Self, StackError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base = std::env::temp_dir();
        loop {
            let path = base.join(format!(
                "quittance-{purpose}-{}-{}",
                std::process::id(),
                COUNT.fetch_add(1, Ordering::Relaxed),
            ));
            match fs::create_dir(&path) {
                Ok(()) => {
                    // Made first, so that it is removed if the next line fails.
                    let made = Self { path };
                    fs::set_permissions(&made.path, fs::Permissions::from_mode(0o700))
                        .doing(|| format!("closing {} to others", made.path.display()))?;
                    return Ok(made);
                }
                // Left by an earlier process of the same id.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).doing(|| format!("creating {}", path.display())),
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for inspection: {}", self.path.display());
        } else {
            // Nothing to be done about a failure here, and nothing depends on it.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
