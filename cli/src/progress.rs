//! What the engine tells, as a progress bar on a terminal and as log lines elsewhere.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcdbr_engine::clock::Clock;
use etcdbr_engine::monitor::{Event, Monitor, Phase};
use etcdbr_engine::run::RunContext;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::args::OutputFormat;
use crate::output;

/// How often the bar is drawn.
const DRAWS_PER_SECOND: u8 = 10;

/// The surroundings of a command.
pub(crate) fn context(format: OutputFormat, stop: CancellationToken) -> RunContext {
    let clock = Clock::system();
    let bar = (format == OutputFormat::Text && std::io::stderr().is_terminal()).then(Mutex::default);
    RunContext { clock: clock.clone(), monitor: Arc::new(Teller { format, clock, bar }), stop }
}

struct Teller {
    format: OutputFormat,
    clock: Clock,
    bar: Option<Mutex<Option<ProgressBar>>>,
}

impl Monitor for Teller {
    fn tell(&self, event: Event) {
        match event {
            Event::Note(text) => self.line("info", &text),
            Event::Warning(text) => self.line("warning", &text),
            Event::Begin { phase, total_bytes } => self.begin(phase, total_bytes),
            Event::Progress { plain_bytes, stored_bytes } => self.advance(plain_bytes, stored_bytes),
            Event::End(_) => self.end(),
            Event::Durable { lineage, revision } => self.durable(&lineage, revision.0),
        }
    }
}

impl Teller {
    fn line(&self, level: &str, text: &str) {
        let time = self.clock.now();
        let line = match self.format {
            OutputFormat::Text => format!("{time} {level}: {text}"),
            OutputFormat::Json => json!({"time": time.to_string(), "level": level, "message": text}).to_string(),
        };
        match self.bar.as_ref().map(|bar| bar.lock().unwrap_or_else(PoisonError::into_inner)).as_deref() {
            Some(Some(bar)) => bar.suspend(|| output::log(&line)),
            _ => output::log(&line),
        }
    }

    fn durable(&self, lineage: &str, revision: i64) {
        if self.format == OutputFormat::Text {
            return self.line("info", &format!("durable up to revision {revision}"));
        }
        let time = self.clock.now().to_string();
        let line = json!({"time": time, "level": "info", "durable_revision": revision, "lineage": lineage});
        output::log(line.to_string());
    }

    fn begin(&self, phase: Phase, total_bytes: u64) {
        let word = match phase {
            Phase::Backup => "backing up",
            Phase::Restore => "restoring",
            Phase::Verify => "verifying",
            Phase::Replay => "replaying",
            Phase::Search => "searching",
            Phase::Proof => "proving",
            Phase::Upload => "uploading",
            Phase::Sync => "making it durable",
        };
        let Some(slot) = &self.bar else {
            if !matches!(phase, Phase::Proof | Phase::Sync) {
                self.line("info", &format!("{word}: about {}", output::human_bytes(total_bytes)));
            }
            return;
        };
        let bar =
            ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND));
        let template = match phase {
            Phase::Sync => "{prefix} {spinner}",
            Phase::Proof => "{prefix} {spinner} {binary_bytes} of records read",
            _ => "{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {msg}  {eta} left",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(word);
        bar.enable_steady_tick(Duration::from_millis(200));
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar);
    }

    fn advance(&self, plain_bytes: u64, stored_bytes: u64) {
        let Some(slot) = &self.bar else { return };
        if let Some(bar) = &*slot.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.set_position(plain_bytes);
            if stored_bytes > 0 {
                bar.set_message(format!("{:.1}x", plain_bytes as f64 / stored_bytes as f64));
            }
        }
    }

    fn end(&self) {
        let Some(slot) = &self.bar else { return };
        if let Some(bar) = slot.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}
