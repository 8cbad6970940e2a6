//! Many seeds, the same seed twice, every operation of the disk, and mistakes made on purpose.

use std::ops::Range;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::disk::Trouble;
use super::life::{Bench, Flaw, Options, Outcome};
use super::step::PANIC;

/// Seeds of the quick test.
const QUICK_SEEDS: u64 = 100;

/// Seeds whose small workflow is tried with trouble at every operation of the disk.
const SYSTEMATIC_SEEDS: u64 = 8;

/// Seeds within which each deliberate mistake must be found.
const SEEDS_FOR_A_FLAW: u64 = 500;

/// Seeds that once broke a rule, and the commit that mended it says which.
const REGRESSIONS: &[u64] = &[1687];

/// Nobody is alarmed by the panics of simulated steps.
fn hush() {
    static HUSH: Once = Once::new();
    HUSH.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let simulated = info.payload().downcast_ref::<&str>().is_some_and(|text| *text == PANIC)
                || info.payload().downcast_ref::<String>().is_some_and(|text| text == PANIC);
            if !simulated {
                before(info);
            }
        }));
    });
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Fails with everything that is needed to see it again.
fn must_hold(seed: u64, outcome: &Outcome) {
    assert!(
        outcome.broken.is_empty(),
        "seed {seed} breaks: {}\nto see it again: cargo xtask simulate --seed {seed}",
        outcome.broken.join("; ")
    );
}

#[test]
fn every_rule_holds_in_many_worlds() {
    hush();
    let bench = Bench::new();
    for seed in 0..QUICK_SEEDS {
        let outcome = bench.simulate(seed, Options::default());
        must_hold(seed, &outcome);
        if seed % 10 == 0 {
            let again = bench.simulate(seed, Options::default());
            assert_eq!(outcome.digest, again.digest, "seed {seed} is not the same twice");
        }
    }
}

#[test]
fn seeds_that_once_broke_a_rule_hold() {
    hush();
    let bench = Bench::new();
    for seed in REGRESSIONS {
        must_hold(*seed, &bench.simulate(*seed, Options::default()));
    }
}

#[test]
fn a_run_survives_trouble_at_every_operation_of_its_disk() {
    hush();
    systematic(&Bench::new(), 0, &[Trouble::PowerLoss, Trouble::Error]);
}

/// A run of two nodes, with nothing but `only` going wrong.
fn small(only: (u64, Trouble), traced: bool) -> Options {
    Options { nodes: Some(2), only: Some(only), traced, ..Options::default() }
}

/// Trouble of these kinds at each disk operation of a small run in turn; the number of runs.
fn systematic(bench: &Bench, seed: u64, troubles: &[Trouble]) -> u64 {
    let calm = bench.simulate(seed, small((u64::MAX, Trouble::Death), false));
    must_hold(seed, &calm);
    assert!(calm.operations > 50, "a run of two nodes writes more than {} times", calm.operations);
    for at in 1..=calm.operations {
        for trouble in troubles {
            let outcome = bench.simulate(seed, small((at, *trouble), false));
            assert!(
                outcome.broken.is_empty(),
                "seed {seed} with {trouble:?} at disk operation {at} breaks: {}\n\
                 to see it again: cargo xtask simulate --seed {seed} --at {at} --trouble {}",
                outcome.broken.join("; "),
                trouble.name()
            );
        }
    }
    calm.operations * troubles.len() as u64
}

/// The first seed that finds `flaw`.
fn finds(flaw: Flaw) -> (u64, Outcome) {
    hush();
    let bench = Bench::new();
    let options = Options { flaw: Some(flaw), ..Options::default() };
    (0..SEEDS_FOR_A_FLAW)
        .map(|seed| (seed, bench.simulate(seed, options)))
        .find(|(_, outcome)| !outcome.broken.is_empty())
        .unwrap_or_else(|| panic!("{flaw:?} is not found within {SEEDS_FOR_A_FLAW} seeds"))
}

/// Each mistake is found, and for the reason that it is one.
fn must_find(flaw: Flaw, reasons: &[&str]) {
    let (seed, outcome) = finds(flaw);
    println!("{flaw:?}: seed {seed}: {}", outcome.broken.join("; "));
    let told = |what: &String| reasons.iter().any(|reason| what.contains(reason));
    assert!(outcome.broken.iter().any(told), "seed {seed}: {:?}", outcome.broken);
}

#[test]
fn an_effect_before_its_intent_is_found() {
    must_find(Flaw::EffectBeforeIntent, &["without a stored intent"]);
}

#[test]
fn a_repeated_attempt_without_a_look_is_found() {
    must_find(Flaw::ObserveSkipped, &["is done 2 times, and a person has allowed 1"]);
}

#[test]
fn a_key_that_differs_from_attempt_to_attempt_is_found() {
    must_find(Flaw::KeyOfAttempt, &["is doubled"]);
}

#[test]
fn a_disk_that_lies_about_sync_is_found() {
    must_find(Flaw::LyingSync, &["is lost", "the store is damaged"]);
}

#[test]
fn a_run_that_goes_on_without_its_store_is_found() {
    must_find(Flaw::StoreErrorIgnored, &["after the store has failed"]);
}

#[test]
fn a_failed_check_that_does_not_count_is_found() {
    must_find(Flaw::VerificationIgnored, &["finished without a passed verification"]);
}

#[test]
fn an_answer_that_counts_for_another_question_is_found() {
    must_find(Flaw::AnswerToAnotherQuestion, &["is decided by an answer to another question"]);
}

#[test]
fn an_answer_that_ends_a_run_before_the_next_is_found() {
    must_find(Flaw::DecisionAlone, &["the run has ended, and then stores"]);
}

#[test]
fn an_undo_that_is_forgotten_is_found() {
    must_find(Flaw::UndoForgotten, &["goes forward, and the run is being undone"]);
}

#[test]
fn an_undo_that_goes_forwards_is_found() {
    must_find(Flaw::UndoForwards, &["which is built on it"]);
}

#[test]
fn an_undo_that_is_done_again_is_found() {
    must_find(Flaw::UndoRepeated, &["is undone, and was before"]);
}

#[test]
fn what_is_built_on_something_older_and_is_reused_is_found() {
    must_find(Flaw::OutdatedReused, &["was made again since"]);
}

/// One world with its whole trace.
fn show(seed: u64) {
    let text = std::env::var("MIGRATE_SIMULATE_TROUBLE").unwrap_or_default();
    let trouble = Trouble::ALL.into_iter().find(|trouble| trouble.name() == text);
    let options = match (number("MIGRATE_SIMULATE_AT"), trouble) {
        (Some(at), Some(trouble)) => small((at, trouble), true),
        _ => Options { traced: true, ..Options::default() },
    };
    let outcome = Bench::new().simulate(seed, options);
    outcome.trace.iter().for_each(|line| println!("{line}"));
    println!("seed {seed}: {} lives, digest {:016x}", outcome.lives, outcome.digest);
    must_hold(seed, &outcome);
}

/// Many seeds on all cores: `cargo xtask simulate`.
#[test]
#[ignore = "takes minutes; `cargo xtask simulate` runs it"]
fn simulate() {
    hush();
    if let Some(seed) = number("MIGRATE_SIMULATE_SEED") {
        return show(seed);
    }
    let seeds = number("MIGRATE_SIMULATE_SEEDS").unwrap_or(10_000);
    let first = number("MIGRATE_SIMULATE_FROM").unwrap_or(0);
    let began = Instant::now();
    let (lives, threads) = on_all_cores(first..first + seeds, |bench, seed| {
        let outcome = bench.simulate(seed, Options::default());
        must_hold(seed, &outcome);
        outcome.lives
    });
    let seconds = began.elapsed().as_secs_f64();
    let rate = seeds as f64 / seconds;
    println!(
        "{seeds} seeds from {first}: {lives} lives in {seconds:.1} s on {threads} threads, {rate:.1} seeds/s; every rule holds"
    );
    let began = Instant::now();
    let (runs, _) =
        on_all_cores(first..first + SYSTEMATIC_SEEDS, |bench, seed| systematic(bench, seed, &Trouble::ALL));
    println!(
        "{SYSTEMATIC_SEEDS} small workflows with trouble of {} kinds at every disk operation: {runs} runs in {:.1} s; every rule holds",
        Trouble::ALL.len(),
        began.elapsed().as_secs_f64()
    );
}

/// The sum of what `work` returns for each seed, and the number of threads.
fn on_all_cores(seeds: Range<u64>, work: impl Fn(&Bench, u64) -> u64 + Sync) -> (u64, usize) {
    let (next, sum) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let bench = Bench::new();
                // The first failure ends the work of all.
                let stop = Stop(&next, seeds.end);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return drop(stop);
                    }
                    sum.fetch_add(work(&bench, seed), Ordering::Relaxed);
                }
            });
        }
    });
    (sum.into_inner(), threads)
}

struct Stop<'a>(&'a AtomicU64, u64);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.fetch_max(self.1, Ordering::Relaxed);
    }
}
