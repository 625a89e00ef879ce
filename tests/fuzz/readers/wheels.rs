//! Wheels, as far as they're read after their hash was found right.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use peft_bench::onnxruntime::wheel::unpack;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::mutate::Form;
use crate::target::{Reader, Seed, Target, told};

pub const WHEEL: Reader = Reader {
    name: "wheel",
    one_of: 1,
    make: wheel,
};

fn wheel(folder: &Path) -> Target {
    let path = folder.join("a.whl");
    let mut archive = ZipWriter::new(File::create(&path).unwrap());
    for (name, content) in [
        ("onnxruntime/capi/liba.so", "a".repeat(5000)),
        ("onnxruntime/capi/libb.so", "b".to_owned()),
        ("onnxruntime/__init__.py", "c".to_owned()),
    ] {
        archive
            .start_file(name, SimpleFileOptions::default())
            .unwrap();
        archive.write_all(content.as_bytes()).unwrap();
    }
    archive.finish().unwrap();
    let target = folder.join("unpacked");
    let bytes = fs::read(&path).unwrap();
    Target {
        seeds: vec![Seed::of(path, bytes, Form::Bytes)],
        read: Box::new(move |seed| {
            let _ = fs::remove_dir_all(&target);
            fs::create_dir(&target).unwrap();
            let unpacked = unpack(&seed.path, &["liba.so", "libb.so"], &target);
            unpacked.map_err(|error| told(&error))
        }),
    }
}
