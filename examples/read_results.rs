//! Reads result files and prints what each variant costs over the base.
//!
//! ```sh
//! cargo run --release --example read_results -- results/*.json
//! ```

#![expect(clippy::print_stdout, reason = "an example prints what it finds")]

use std::error::Error;
use std::path::PathBuf;

use peft_bench::report;

fn main() -> Result<(), Box<dyn Error>> {
    for path in std::env::args_os().skip(1).map(PathBuf::from) {
        let report = report::read(&path)?;
        println!("{}, {:?}", path.display(), report.run_info.status);
        for (name, variant) in report.generation_info.all_measured() {
            let Some(overhead) = variant.overall_overhead() else {
                continue;
            };
            let interval = match overhead.interval_pct {
                Some([low, high]) => format!("95 % interval {low:+.1} to {high:+.1} %"),
                None => format!("no interval from {} pairs", overhead.pairs),
            };
            println!("  {name}: {:+.1} %, {interval}", overhead.pct);
        }
    }
    Ok(())
}
