//! Messages on stderr.

/// Prints a line on stderr. Unlike `eprintln!` it doesn't panic when nobody reads there any more: in
/// `migrate run … 2>&1 | tee log`, the first Ctrl-C ends `tee` too, and must still end in a resumable
/// run with its exit code.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}

pub(crate) use say;
