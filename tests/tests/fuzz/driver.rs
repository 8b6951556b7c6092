//! Runs a target on seeds, on what has failed before, and on mutations without end.
//!
//! Nothing is instrumented. Instead a target tells in words what it found, an error or what was opened: an input whose
//! answer is new, numbers aside, is kept and mutated further. Errors here name every check that failed, so that answers
//! follow the branches of the code closely enough.

use std::any::Any;
use std::collections::HashSet;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use etcdbr_engine::clock::random_bytes;
use etcdbr_tests::load::Noise;
use sha2::{Digest, Sha256};

use super::heap::{peak_of, runs_away};
use super::mutate::{below, mutate};

/// Executions of the short run that is part of the tests.
const SHORT_RUN: u64 = 3_000;
/// How long one input may take. The machine may be busy; what is meant is for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// Memory that every target may hold, and for each byte of its input.
const BASE_BYTES: usize = 8 << 20;
const BYTES_PER_BYTE: usize = 128;
/// Inputs that are kept for mutation.
const MAX_KEPT: usize = 2_000;

type Run = fn(&[u8]) -> String;
type Mend = fn(Vec<u8>) -> Vec<u8>;

/// Something that must survive every input.
pub(crate) struct Target {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    run: Run,
    mend: Mend,
    patience: Duration,
}

/// An input that a target did not survive.
pub(crate) struct Fault {
    pub(crate) input: Vec<u8>,
    pub(crate) what: String,
}

/// What a run did.
struct Report {
    executions: u64,
    answers: usize,
}

/// When a run ends.
#[derive(Clone, Copy)]
enum Until {
    Executions(u64),
    Time(Instant),
}

impl Target {
    /// A target that answers in words; `seeds` are inputs that it accepts.
    pub(crate) fn new(name: &'static str, seeds: Vec<Vec<u8>>, run: Run) -> Self {
        Self { name, seeds, run, mend: |input| input, patience: PATIENCE }
    }

    /// Most mutations go through `mend`, which makes checksums right again: the damage behind them is what is looked for.
    pub(crate) fn mended_by(mut self, mend: Mend) -> Self {
        self.mend = mend;
        self
    }

    /// How long one input may take.
    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Tries what has failed before, then mutations: a short run, or one of `FUZZ_SECONDS`.
    ///
    /// # Panics
    /// Where an input fails; it is kept.
    pub(crate) fn run(self) {
        let seconds = std::env::var("FUZZ_SECONDS").ok().map(|text| text.parse().expect("FUZZ_SECONDS is a number"));
        let (until, seed) = match seconds {
            None => (Until::Executions(SHORT_RUN), 1),
            Some(seconds) => {
                let seed = u64::from_le_bytes(random_bytes().expect("chance"));
                (Until::Time(Instant::now() + Duration::from_secs(seconds)), seed)
            }
        };
        let (name, dir) = (self.name, kept_dir(self.name));
        let begun = Instant::now();
        match self.explore(kept_inputs(&dir), until, seed) {
            Ok(Report { executions, answers }) => {
                let seconds = begun.elapsed().as_secs_f64();
                println!("fuzz {name}: {executions} executions, {answers} answers, {seconds:.1} s, seed {seed}");
            }
            Err(Fault { input, what }) => {
                let file = dir.join(format!("{}.bin", &hex(&Sha256::digest(&input))[..16]));
                std::fs::create_dir_all(&dir).expect("a place for the input");
                std::fs::write(&file, &input).expect("the input is kept");
                let told =
                    format!("{name}: {what}\nseed {seed}; the input is {}: keep it with the tests", file.display());
                if runs_away() {
                    // Nothing stops its thread but the end of the process, which keeps no output of tests.
                    let _ = writeln!(std::io::stderr(), "{told}");
                    std::process::exit(101);
                }
                panic!("{told}");
            }
        }
    }

    /// The fault that a short run finds.
    pub(crate) fn find(self) -> Option<Fault> {
        // Of a target that is made to fail all is quick, so it may look longer.
        self.explore(Vec::new(), Until::Executions(200 * SHORT_RUN), 1).err()
    }

    /// The executions have a thread of their own: this one sees when it is stuck.
    fn explore(self, kept: Vec<Vec<u8>>, until: Until, seed: u64) -> Result<Report, Fault> {
        let patience = self.patience;
        let current = Arc::new(Mutex::new((0, Vec::new())));
        let (done, wait) = mpsc::channel();
        let explorer = Explorer { target: self, current: current.clone(), noise: Noise::new(seed), executions: 0 };
        std::thread::spawn(move || done.send(explorer.explore(kept, until)));
        let (mut last, mut since) = (0, Instant::now());
        loop {
            match wait.recv_timeout(Duration::from_millis(50)) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => panic!("the driver itself failed"),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let (executions, input) = &*current.lock().unwrap_or_else(PoisonError::into_inner);
            if *executions != last {
                (last, since) = (*executions, Instant::now());
            } else if runs_away() {
                return Err(Fault { input: input.clone(), what: "it takes ever more memory".to_owned() });
            } else if since.elapsed() > patience {
                return Err(Fault { input: input.clone(), what: format!("no answer for {patience:?}") });
            }
        }
    }
}

struct Explorer {
    target: Target,
    /// Number and bytes of the input that is being tried.
    current: Arc<Mutex<(u64, Vec<u8>)>>,
    noise: Noise,
    executions: u64,
}

impl Explorer {
    fn explore(mut self, kept: Vec<Vec<u8>>, until: Until) -> Result<Report, Fault> {
        let mut answers = HashSet::new();
        let mut corpus = Vec::new();
        for input in self.target.seeds.clone().into_iter().chain(kept) {
            answers.insert(self.execute(&input)?);
            corpus.push(input);
        }
        let first = corpus.len();
        let over = |executions| match until {
            Until::Executions(most) => executions >= most,
            Until::Time(end) => Instant::now() >= end,
        };
        while !over(self.executions) {
            // Now and then one that was there from the start: what is kept soon outnumbers them.
            let pool = if self.noise.next_u64().is_multiple_of(4) { first } else { corpus.len() };
            let mut input = corpus[below(&mut self.noise, pool)].clone();
            let other = &corpus[below(&mut self.noise, corpus.len())];
            mutate(&mut self.noise, &mut input, other);
            if !self.noise.next_u64().is_multiple_of(8) {
                input = (self.target.mend)(input);
            }
            if answers.insert(self.execute(&input)?) && corpus.len() < MAX_KEPT {
                corpus.push(input);
            }
        }
        Ok(Report { executions: self.executions, answers: answers.len() })
    }

    /// The target's answer to `input`, without its numbers.
    fn execute(&mut self, input: &[u8]) -> Result<String, Fault> {
        self.executions += 1;
        {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.0 = self.executions;
            current.1.clear();
            current.1.extend_from_slice(input);
        }
        let fault = |what| Fault { input: input.to_vec(), what };
        let run = self.target.run;
        let (answer, peak) = peak_of(|| catch_unwind(AssertUnwindSafe(|| run(input))));
        let answer = answer.map_err(|panic| fault(format!("it panics: {}", message_of(&*panic))))?;
        let bound = BASE_BYTES + BYTES_PER_BYTE * input.len();
        if peak > bound {
            return Err(fault(format!("it takes {peak} bytes of memory for {} bytes", input.len())));
        }
        Ok(answer.chars().filter(|c| !c.is_ascii_digit()).take(400).collect())
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// Where inputs that have failed are kept.
fn kept_dir(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/fuzz").join(target)
}

fn kept_inputs(dir: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a kept input")).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
