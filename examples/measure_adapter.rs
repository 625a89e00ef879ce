//! Measures an adapter against its base and prints what it costs.
//!
//! ```sh
//! cargo run --release --example measure_adapter -- experiments/lora/lora_r16 synthetic/llama-135m
//! ```

#![expect(clippy::print_stdout, reason = "an example prints what it finds")]

use std::error::Error;

use peft_bench::report::Report;
use peft_bench::study::{Event, Observer, Settings, Study, become_worker};

/// Prints when the adapters of the study have been prepared.
struct Watcher;

impl Observer for Watcher {
    fn observe(&mut self, event: Event<'_>) {
        match event {
            Event::BaseOpened { id, folder } => println!("base {id}, in {}", folder.display()),
            Event::Measured { results } => println!("{} measured", results.len()),
            _ => {}
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // Each variant is measured in a process of its own, for which this program is started again.
    if become_worker()? {
        return Ok(());
    }
    let mut arguments = std::env::args().skip(1);
    let study = Study {
        targets: vec![arguments.next().ok_or("which adapter?")?.into()],
        settings: Settings {
            model: arguments.next(),
            ..Settings::default()
        },
        ..Study::default()
    };
    for result in study.run(&mut Watcher)? {
        println!("{}, in {}", result.name, result.path.display());
        print(&result.report);
    }
    Ok(())
}

fn print(report: &Report) {
    for (name, variant) in report.generation_info.all_measured() {
        let step = variant
            .overall
            .as_ref()
            .and_then(|all| all.decode_time_per_token);
        println!("  {name}: {:.3} ms a token", step.unwrap_or(f64::NAN) * 1e3);
        if let Some(overhead) = variant.overall_overhead() {
            println!("    {:+.1} % over the base in all", overhead.pct);
        }
    }
}
