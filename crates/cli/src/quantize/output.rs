//! A file that has its name only when it is complete.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::failure::{OrUsage as _, Outcome, usage};

/// A file in the making; removed unless it is kept.
pub(super) struct Output {
    /// The name that it will have.
    named: PathBuf,
    /// The name that it has.
    path: PathBuf,
    file: File,
    replaces: bool,
    is_kept: bool,
}

impl Output {
    /// Creates a file beside `named`.
    ///
    /// * `replaces`: whether a file of that name may be there.
    ///
    /// # Errors
    /// A usage failure if one may not and is, or nothing can be created.
    pub(super) fn create(named: &Path, replaces: bool) -> Outcome<Self> {
        let shown = named.display();
        match fs::metadata(named) {
            Ok(found) if !found.is_file() => return Err(usage(format!("{shown} is not a file"))),
            Ok(_) if !replaces => {
                return Err(usage(format!(
                    "{shown} exists; choose another name, or --force to write over it"
                )));
            }
            _ => {}
        }
        let Some(name) = named.file_name() else {
            return Err(usage(format!("{shown} has no file name")));
        };
        let path = named.with_file_name(format!(".{}.{}.part", name.display(), std::process::id()));
        let created = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = created.or_usage_of(format!("{shown} cannot be created"))?;
        Ok(Self { named: named.to_path_buf(), path, file, replaces, is_kept: false })
    }

    /// What is written to.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Where it is for now.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The name that it will have.
    pub(super) fn named(&self) -> &Path {
        &self.named
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// If the system refuses, or a file of that name has appeared meanwhile and may not be there.
    pub(super) fn keep(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if self.replaces {
            fs::rename(&self.path, &self.named)?;
            self.is_kept = true;
            return Ok(());
        }
        // A link is refused where there is something already; not every file system has them.
        match fs::hard_link(&self.path, &self.named) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            Err(_) => {
                fs::rename(&self.path, &self.named)?;
                self.is_kept = true;
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.is_kept {
            // Nothing can be done about a file that does not go away.
            let _ = fs::remove_file(&self.path);
        }
    }
}
