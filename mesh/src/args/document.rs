//! A configuration file as it was read, once: whatever is taken from it comes from the same text.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use toml::{Spanned, de::DeTable};

use crate::process::Fault;

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A file and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    path: PathBuf,
    text: String,
}

impl Document {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is longer than 1 MiB, or is not text.
    pub fn read(path: &Path) -> Result<Self, Fault> {
        let shown = path.display();
        let refuse = |e: std::io::Error| Fault::user(format!("--config {shown}: {e}"));
        let mut bytes = Vec::new();
        // Its length may change while it is read, and a pipe tells none.
        let mut file = std::fs::File::open(path).map_err(refuse)?.take(FILE_BYTES_MAX + 1);
        file.read_to_end(&mut bytes).map_err(refuse)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(Fault::user(format!("--config {shown}: has more than {FILE_BYTES_MAX} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|e| {
            let line = line(e.as_bytes(), e.utf8_error().valid_up_to());
            Fault::user(format!("{shown}:{line}: is not UTF-8"))
        })?;
        Ok(Self::new(path, text))
    }

    /// A file by its text.
    pub fn new(path: &Path, text: String) -> Self {
        // An editor's mark at the start is no part of the text.
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        Self { path: path.to_owned(), text }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its keys and values with their places.
    ///
    /// # Errors
    /// It is not TOML.
    pub fn table(&self) -> Result<Spanned<DeTable<'_>>, Fault> {
        DeTable::parse(&self.text).map_err(|e| self.fault(e.span().map_or(0, |s| s.start), e.message()))
    }

    /// The line, from 1, of a byte offset.
    pub fn line(&self, offset: usize) -> usize {
        line(self.text.as_bytes(), offset)
    }

    /// `FILE:LINE: reason`.
    pub fn fault(&self, offset: usize, reason: impl std::fmt::Display) -> Fault {
        Fault::user(format!("{}:{}: {reason}", self.path.display(), self.line(offset)))
    }
}

fn line(text: &[u8], offset: usize) -> usize {
    text.iter().take(offset).filter(|b| **b == b'\n').count() + 1
}
