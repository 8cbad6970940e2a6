//! Messages on stderr.

use std::fmt;
use std::io::Write as _;

use crate::output::harmless;

/// Prints a line on stderr, in which nothing steers the terminal. Unlike `eprintln!` it doesn't panic when
/// nobody reads there any more: in `migrate run … 2>&1 | tee log`, the first Ctrl-C ends `tee` too, and must
/// still end in a resumable run with its exit code.
macro_rules! say {
    ($($argument:tt)*) => { $crate::say::line(format_args!($($argument)*)) };
}

pub(crate) use say;

/// What [`say!`] does.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    styled(&harmless(&text.to_string()));
}

/// Prints a line of our own that may be coloured.
pub(crate) fn styled(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
