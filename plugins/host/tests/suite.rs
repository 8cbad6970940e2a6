//! The conformance suite itself: a plugin in a language without SDK passes it, and each mistake that it is
//! for is found.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use migrate_plugin_host::conformance::{Outcome, Suite, SuiteReport, run};
use migrate_plugin_host::{Guard, Launch};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Runs some cases; none: all.
async fn tested(program: PathBuf, only: &[&str]) -> SuiteReport {
    let dir = tempfile::tempdir().unwrap();
    let (args, only) = (Vec::new(), only.iter().map(|name| (*name).to_owned()).collect());
    let suite = Suite {
        guard: Guard { program: env!("CARGO_BIN_EXE_migrate-plugin-guard").into(), args: Vec::new() },
        launch: Launch { program, args, env: BTreeSet::new(), memory_bytes: 1 << 30 },
        dir: dir.path().to_owned(),
        sample: None,
        effects: true,
        only,
    };
    run(suite, |_| {}).await
}

fn failures(report: &SuiteReport) -> Vec<String> {
    let failed = |outcome: &Outcome| match outcome {
        Outcome::Failed { what, .. } => Some(what.clone()),
        Outcome::Passed | Outcome::Skipped { .. } => None,
    };
    let cases = report.cases.iter();
    cases.filter_map(|case| Some(format!("{}: {}", case.case, failed(&case.outcome)?))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_in_perl_passes_every_case() {
    let report = tested(fixture("migrate-step-perl.count"), &[]).await;
    assert_eq!(failures(&report), Vec::<String>::new());
    let (passed, _, skipped) = report.counts();
    assert!(passed >= 50, "{passed} passed, {skipped} skipped");
    assert_eq!(report.step.as_deref(), Some("perl.count"));
    let names: BTreeSet<_> = report.cases.iter().map(|case| case.case).collect();
    assert_eq!(names.len(), report.cases.len(), "two cases have one name");
}

/// Changes the Perl plugin by one mistake.
async fn mistaken(from: &str, to: &str, case: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("migrate-step-perl.count");
    let text = std::fs::read_to_string(fixture("migrate-step-perl.count")).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::copy(fixture("migrate-step-perl.count"), &program).unwrap();
    std::fs::write(&program, text.replacen(from, to, 1)).unwrap();
    // What is applied is what others look at.
    let report = tested(program, &["apply", case]).await;
    failures(&report).iter().map(|failure| failure.split(':').next().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_is_found_by_its_case() {
    let mistakes = [
        ("unless $spoken;", "if 0;", "initialize-refuses"),
        ("$| = 1;", "print STDERR '';", "initialize"),
        ("$| = 1;", "$| = 1; print \"hello\\n\";", "initialize"),
        ("$| = 1;", "$| = 1; answer(method => 'log', params => {});", "silent-before-asked"),
        ("name => 'perl.count'", "name => 'Perl Count'", "describe-name"),
        ("version => '1'", "version => rand", "describe-twice"),
        ("version => '1'", "version => ' '", "describe-version"),
        ("'Counts to a number',\n", "'Counts to a number.',\n", "describe-summary"),
        ("type => 'object', required", "type => 'objekt', required", "config-schema"),
        ("examples => [{ to => 3 }]", "examples => [{ to => 'x' }]", "config-examples"),
        (
            "{ type => 'object', properties => { counted",
            "{ '$ref' => 'https://x.example/s', properties => { counted",
            "output-schema",
        ),
        ("next if $line =~ /^\\s*$/;", "exit 1 if $line =~ /^\\s*$/;", "line-empty"),
        ("code => -32601", "code => -1", "unknown-method"),
        ("next unless defined $id;", "$id //= 0;", "unknown-notification"),
        (
            "ref $to ? 'a number that is not known yet' : $to // 'nothing'",
            "$to + 1) . (ref $to ? die('ref') : ''",
            "plan-unknown",
        ),
        ("return { problems => [] } if !defined $to || ref $to || $to >= 0;", "", "validate-sample"),
        ("{ state => 'absent' }", "{ state => 'gone' }", "observe-before"),
        ("idempotency => 'natural'", "idempotency => 'keyed'", "observe-after"),
        ("version => '1'", "sensitive => ['counted'], version => '1'", "sensitive"),
        ("version => '1'", "sensitive => ['/count'], version => '1'", "sensitive"),
        ("{ outputs => { counted => $to } }", "{ counted => $to }", "apply"),
        ("{ outputs => { counted => $to } }", "{ outputs => { counted => 'x' } }", "apply"),
        (
            "method => 'progress', params => {",
            "id => 'x', method => 'progress', params => {",
            "apply-messages",
        ),
        ("die $reply->{error} if", "0 if", "apply-store-fails"),
        ("$to == $counted ? 'passed'", "$to != $counted ? 'passed'", "verify-quick"),
        // `verify` is not given what is sensitive.
        ("version => '1'", "sensitive => ['/counted'], version => '1'", "verify-quick"),
        ("target => \"$counted\"", "target => 7, was => \"$counted\"", "verify-deep"),
        ("undo => sub { return {} },", "", "undo"),
        ("last if $method eq 'shutdown';", "if ($method eq 'shutdown') { exit 3 }", "shutdown"),
    ];
    // Most of it is waiting.
    let runs = mistakes.map(|(from, to, case)| {
        tokio::spawn(async move {
            let found = mistaken(from, to, case).await;
            assert!(found.iter().any(|name| name == case), "{to}: {case} is not among {found:?}");
        })
    });
    for run in runs {
        run.await.unwrap();
    }
}
