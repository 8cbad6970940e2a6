//! Mistakes in files, each with its place and the way out.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};
use migrate_plugin_api::NodeId;

use super::secrets;

/// Largest file that is read: a thousand nodes fit many times; a mistaken path to a core dump doesn't.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Why a file can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not there, not readable.
    #[error("failed to read {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Too large to be what it should be.
    #[error("{} is larger than {MAX_FILE_BYTES} bytes", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not UTF-8.
    #[error("{} is not UTF-8 text", .path.display())]
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
        let name = display_name(&path);
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

    /// The same file with what stands at `spans` made unreadable.
    pub(crate) fn masked(&self, spans: &[Range<usize>]) -> Self {
        let text = self.text();
        let at = |index: usize| spans.iter().any(|span| span.contains(&index));
        let hide = |(index, c): (usize, char)| {
            if at(index) && c != '\n' { "*".repeat(c.len_utf8()) } else { c.to_string() }
        };
        Self::new(&self.path, text.char_indices().map(hide).collect::<String>())
    }

    /// Its name for a person: the path, or `<shipped workflow NAME>` where there is no file.
    pub fn name(&self) -> &str {
        self.code.name()
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

/// What stands for the path of a workflow that comes with the program, before its name.
pub(crate) const SHIPPED: &str = "shipped workflow ";

fn display_name(path: &Path) -> String {
    match path.file_name().and_then(|name| name.to_str()).filter(|name| name.starts_with(SHIPPED)) {
        Some(name) => format!("<{name}>"),
        None => path.display().to_string(),
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
    /// The nodes that are mistaken because of it, and how they refer to the place.
    used: Option<(Vec<NodeId>, String)>,
}

impl Mistake {
    /// The file it is in.
    pub fn file(&self) -> &Source {
        &self.file
    }

    /// Line and column of the place, from 1, the column in characters.
    pub fn position(&self) -> (usize, usize) {
        let before = self.file.text().get(..self.span.start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (line, column)
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

/// Most mistakes that are reported: nobody reads more, and a hostile file can hold millions.
const MAX_MISTAKES: usize = 100;

/// Farthest name that is still suggested, as a share of the longer one's length.
const MAX_NAME_DISTANCE: f64 = 0.4;

/// Collects mistakes.
#[derive(Debug, Default)]
pub(crate) struct Mistakes {
    found: Vec<Mistake>,
    scratch: Option<Mistake>,
    /// What may be a secret: never shown, also not in the lines around another mistake.
    hidden: Vec<(PathBuf, Range<usize>)>,
}

impl Mistakes {
    /// Adds a mistake; label and help can be added to what is returned.
    pub(crate) fn add(
        &mut self,
        file: &Source,
        span: Range<usize>,
        code: &'static str,
        message: impl Into<String>,
    ) -> &mut Mistake {
        let message = message.into();
        let mistake =
            Mistake { code, message, label: None, help: None, span, file: file.clone(), used: None };
        if self.found.len() < MAX_MISTAKES {
            self.found.push(mistake);
            let last = self.found.len() - 1;
            return &mut self.found[last];
        }
        self.scratch.insert(mistake)
    }

    /// Whatever is said about `file`, what stands at `span` is not shown.
    pub(crate) fn hide(&mut self, file: &Source, span: &Range<usize>) {
        self.hidden.push((file.path.clone(), span.clone()));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.found.len()
    }

    /// Adds `note` to the help of everything found after the first `before`.
    pub(crate) fn note_since(&mut self, before: usize, note: &str) {
        for mistake in self.found.iter_mut().skip(before) {
            mistake.help = Some(match mistake.help.take() {
                Some(help) => format!("{help}\n{note}"),
                None => note.to_owned(),
            });
        }
    }

    /// Takes back what is only missing because a key is there twice and one of them was dropped.
    fn forgive_duplicates(&mut self) {
        let doubled: Vec<PathBuf> =
            self.found.iter().filter(|m| m.code == "duplicate-key").map(|m| m.file.path.clone()).collect();
        self.found.retain(|m| m.code != "missing-field" || !doubled.contains(&m.file.path));
    }

    /// Makes unreadable what may be a secret, in every file that is shown.
    fn mask(&mut self) {
        let mut masked: Vec<(Source, Source)> = Vec::new();
        for mistake in &mut self.found {
            // What was given on the command line has one path and many texts.
            let is_it = |(shown, _): &&(Source, Source)| {
                shown.path == mistake.file.path && shown.text() == mistake.file.text()
            };
            if let Some((_, file)) = masked.iter().find(is_it) {
                mistake.file = file.clone();
                continue;
            }
            let mut spans = secrets::places(&mistake.file);
            let hidden = self.hidden.iter().filter(|(path, _)| *path == mistake.file.path);
            spans.extend(hidden.map(|(_, span)| span.clone()));
            let file = if spans.is_empty() { mistake.file.clone() } else { mistake.file.masked(&spans) };
            masked.push((std::mem::replace(&mut mistake.file, file.clone()), file));
        }
    }

    /// `Err` with all mistakes, each once, file by file and line by line.
    pub(crate) fn into_result(mut self) -> Result<(), Diagnostics> {
        self.forgive_duplicates();
        if self.found.is_empty() {
            return Ok(());
        }
        self.mask();
        let mut files: Vec<PathBuf> = Vec::new();
        for mistake in &self.found {
            if !files.contains(&mistake.file.path) {
                files.push(mistake.file.path.clone());
            }
        }
        let rank = |m: &Mistake| files.iter().position(|path| *path == m.file.path);
        self.found.sort_by_key(|m| (rank(m), m.span.start, m.span.end));
        self.found.dedup_by(|again, first| first.absorb(again));
        self.found.iter_mut().for_each(Mistake::name_users);
        Err(Diagnostics { mistakes: self.found })
    }
}

impl Mistake {
    /// Says that `node` is mistaken because of it, which refers to the place by `reference`.
    pub(crate) fn used_by(&mut self, node: &NodeId, reference: String) {
        self.used = Some((vec![node.clone()], reference));
    }

    /// Takes `other` in, if it is the same mistake, found once more.
    fn absorb(&mut self, other: &mut Self) -> bool {
        let is_same =
            self.span == other.span && self.message == other.message && self.file.path == other.file.path;
        if is_same && let (Some((nodes, _)), Some((more, _))) = (&mut self.used, &mut other.used) {
            more.retain(|node| !nodes.contains(node));
            nodes.append(more);
        }
        is_same
    }

    fn name_users(&mut self) {
        let Some((nodes, reference)) = self.used.take() else { return };
        let named: Vec<String> = nodes.iter().map(|node| format!("`{node}`")).collect();
        let note = match named.as_slice() {
            [node] => format!("node {node} uses it as `${{{reference}}}`"),
            nodes => format!("nodes {} use it as `${{{reference}}}`", nodes.join(", ")),
        };
        self.help = Some(match self.help.take() {
            Some(help) => format!("{help}\n{note}"),
            None => note,
        });
    }

    pub(crate) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = Some(label.into());
        self
    }

    /// Suggests the nearest of `known` to `written`, or lists them.
    pub(crate) fn suggest<'a>(
        &mut self,
        written: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> &mut Self {
        const MAX_LISTED: usize = 12;
        let known: Vec<&str> = known.into_iter().collect();
        if let Some(near) = nearest(written, &known) {
            self.label = Some(format!("did you mean `{near}`?"));
        }
        if self.help.is_none() && !known.is_empty() {
            let more = if known.len() > MAX_LISTED { ", …" } else { "" };
            let listed: Vec<String> = known.iter().take(MAX_LISTED).map(|k| format!("`{k}`")).collect();
            self.help = Some(format!("known: {}{more}", listed.join(", ")));
        }
        self
    }
}

/// The one of `known` that was probably meant by `written`, if any is near enough.
pub fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |name: &str| {
        let longer = name.chars().count().max(written.chars().count()).max(1);
        strsim::damerau_levenshtein(&written.to_lowercase(), name) as f64 / longer as f64
    };
    known
        .iter()
        .map(|name| (distance(name), *name))
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(distance, _)| *distance <= MAX_NAME_DISTANCE)
        .map(|(_, name)| name)
}

impl Diagnostics {
    /// For a file that could not be read although no mistake was found in it.
    pub(crate) fn unreadable(file: &Source) -> Self {
        let message = "the file can't be understood".to_owned();
        let mistake = Mistake {
            code: "unreadable",
            message,
            label: None,
            help: None,
            span: 0..0,
            file: file.clone(),
            used: None,
        };
        Self { mistakes: vec![mistake] }
    }
}
