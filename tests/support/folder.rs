//! A directory for the files of one test.

use std::fs;
use std::path::PathBuf;

use super::device_name;

/// A directory that is removed with its contents on drop.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Creates an empty directory.
    ///
    /// # Panics
    /// If the directory cannot be created.
    #[must_use]
    pub fn new() -> Folder {
        let path = std::env::temp_dir().join(device_name("lw-"));
        fs::create_dir_all(&path).expect("make a directory");
        Folder(path)
    }

    /// Returns the path of the file called `name`.
    ///
    /// # Panics
    /// If the path is not UTF-8.
    #[must_use]
    pub fn join(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("text").to_owned()
    }

    /// Writes a file and returns its path.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.join(name);
        fs::write(&path, text).expect("write a file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
