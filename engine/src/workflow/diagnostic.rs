//! Mistakes in files, each with its place and the way out.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

/// Largest file that is read: a thousand nodes fit many times; a mistaken path to a core dump doesn't.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Why a file can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not there, not readable.
    #[error("failed to read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Too large to be what it should be.
    #[error("{path} is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not UTF-8.
    #[error("{path} is not UTF-8 text")]
    NotText {
        /// The file.
        path: PathBuf,
    },
}

/// A text file with its path, for messages and for finding it again at `resume`.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    code: Arc<NamedSource<String>>,
}

impl Source {
    /// A text that stands at `path`.
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        let path = path.into();
        let name = path.display().to_string();
        Self { path, code: Arc::new(NamedSource::new(name, text.into())) }
    }

    /// Reads `path`.
    ///
    /// # Errors
    /// When it isn't there, too large, or no text.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ReadError> {
        use std::io::Read;
        let path = path.as_ref();
        let io = |source| ReadError::Io { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(io)?;
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(ReadError::TooLarge { path: path.to_owned() });
        }
        let text = String::from_utf8(bytes).map_err(|_| ReadError::NotText { path: path.to_owned() })?;
        Ok(Self::new(path, text))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its text.
    pub fn text(&self) -> &str {
        self.code.inner()
    }
}

/// One mistake. Rendered by miette with file, line, caret and help.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Mistake {
    /// What kind: `unknown-step`, `cycle`; stable.
    pub code: &'static str,
    /// What is wrong, naming the thing.
    pub message: String,
    /// At the caret.
    pub label: Option<String>,
    /// The way out.
    pub help: Option<String>,
    /// Where, in bytes of the file.
    pub span: Range<usize>,
    file: Source,
}

impl Mistake {
    /// The file it is in.
    pub fn file(&self) -> &Source {
        &self.file
    }
}

impl Diagnostic for Mistake {
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn std::fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&*self.file.code)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = LabeledSpan::new_primary_with_span(self.label.clone(), self.span.clone());
        Some(Box::new(std::iter::once(label)))
    }
}

/// All mistakes found in one pass, in the order of files and lines. Never empty.
#[derive(Debug, Clone, thiserror::Error)]
#[error("found {} mistake{}", .mistakes.len(), if .mistakes.len() == 1 { "" } else { "s" })]
pub struct Diagnostics {
    mistakes: Vec<Mistake>,
}

impl Diagnostics {
    /// Each one.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
}

impl Diagnostic for Diagnostics {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.mistakes.iter().map(|mistake| mistake as &dyn Diagnostic)))
    }
}
