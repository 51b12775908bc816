//! A compiled module as bytes: compiled on one machine or day, loaded on another.
//!
//! ```text
//!    0   magic, and the number of this format
//!   12   CRC-32 of all that follows
//!   16   postcard:  conditions under which the code is right
//!                   outline of the module, offset of its code section
//!                   image
//! ```
//!
//! What a module says besides its code is not written down: the outline is parsed, validated and its types are registered as any module's, so that
//! there is one way to a [`ModuleInfo`](crate::ModuleInfo). The sum finds damage, not malice: bytes that somebody made up are
//! code that runs, whatever is checked here. Who loads them has to know where they come from.

use serde::{Deserialize, Serialize};

use crate::costs::FuelCosts;
use crate::features::Proposal;
use crate::outline::outline;
use crate::settings::{host_features, processor_features};
use crate::{CompileError, CompiledModule, Image, MemoryStyle, Settings, compile, parse};

/// What the bytes begin with. No module and no text does.
const MAGIC: [u8; 8] = *b"\0slvdge\n";
/// To be raised with each change of what images mean to the runtime, or of what is written here.
const FORMAT: u32 = 2;
/// Of magic, format and sum.
const HEAD_BYTES: usize = 16;

/// Why bytes are not loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// They begin otherwise: with a module, perhaps.
    #[error("not a precompiled module: it does not begin with {MAGIC:02x?}")]
    NotPrecompiled,
    /// Another version made them.
    #[error("precompiled by {by}, this is {}: compile the module again", this_version())]
    Version {
        /// The version.
        by: String,
    },
    /// Some are missing, or are others than were written.
    #[error("precompiled module is damaged: {what}")]
    Damaged {
        /// How it was seen.
        what: String,
    },
    /// It was compiled for another kind of machine.
    #[error("precompiled for {target}, this is {}", this_target())]
    Target {
        /// Architecture and system.
        target: String,
    },
    /// The code needs what the processor does not have.
    #[error(
        "precompiled for a processor with {missing}, which this one has not; portable code runs on every one"
    )]
    Processor {
        /// The features, by Cranelift's names.
        missing: String,
    },
    /// It was compiled with a setting that has another value here.
    #[error("precompiled with {setting} {then}, which is {now} here")]
    Setting {
        /// The setting.
        setting: String,
        /// What it was.
        then: String,
        /// What it is.
        now: String,
    },
    /// What is left of the module is refused.
    #[error(transparent)]
    Module(#[from] CompileError),
}

/// What is written.
#[derive(Serialize, Deserialize)]
struct Artifact {
    conditions: Conditions,
    outline: Vec<u8>,
    /// Where addresses in debug sections count from: the outline's code lies elsewhere.
    code_offset: u32,
    image: Image,
}

/// What has to be as it was, besides the processor's features and what the image says itself.
#[derive(Serialize, Deserialize)]
struct Conditions {
    target: String,
    /// What operators cost, if they do, and how many bytes a unit moves.
    fuel_costs: Option<(Vec<u8>, u32)>,
    /// Whether all NaNs are canonical.
    canonical_nans: bool,
    /// The proposals that the module might use, by name.
    proposals: Vec<String>,
}

fn this_version() -> String {
    format!("{} (format {FORMAT})", env!("CARGO_PKG_VERSION"))
}

fn this_target() -> String {
    format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)
}

impl Conditions {
    fn of(settings: &Settings) -> Conditions {
        Conditions {
            target: this_target(),
            fuel_costs: settings.fuel.then(|| settings.fuel_costs.table()),
            canonical_nans: settings.canonical_nans,
            proposals: settings.features.names(),
        }
    }

    fn check(&self, image: &Image, settings: &Settings) -> Result<(), LoadError> {
        if self.target != this_target() {
            let target = self.target.clone();
            return Err(LoadError::Target { target });
        }
        let on_or_off = |on| if on { "on" } else { "off" };
        same("fuel", &on_or_off(image.fuel), &on_or_off(settings.fuel))?;
        same(
            "canonical NaNs",
            &on_or_off(self.canonical_nans),
            &on_or_off(settings.canonical_nans),
        )?;
        same("memory style", &image.memory_style, &settings.memory_style)?;
        self.check_costs(&settings.fuel_costs)?;
        for name in &self.proposals {
            let here = Proposal::named(name).is_some_and(|proposal| settings.features.has(proposal));
            same(&format!("proposal {name}"), &"on", &on_or_off(here))?;
        }
        let here = host_features(settings)?;
        let missing = image
            .cpu_features
            .iter()
            .filter(|feature| !here.contains(feature));
        let missing: Vec<_> = missing.map(String::as_str).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(LoadError::Processor {
                missing: missing.join(", "),
            }),
        }
    }

    fn check_costs(&self, here: &FuelCosts) -> Result<(), LoadError> {
        let Some((units, bytes_per_unit)) = &self.fuel_costs else {
            return Ok(());
        };
        let (here, bytes_here) = here.table();
        same("bytes for a unit of fuel", bytes_per_unit, &bytes_here)?;
        same("number of operators", &units.len(), &here.len())?;
        let differs = units.iter().zip(&here).position(|(then, now)| then != now);
        match differs {
            Some(at) => same(&format!("cost of {}", FuelCosts::name(at)), &units[at], &here[at]),
            None => Ok(()),
        }
    }
}

/// A value of a setting, as errors say it.
trait Shown {
    fn shown(&self) -> String;
}

impl<T: std::fmt::Display> Shown for T {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for MemoryStyle {
    fn shown(&self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

fn same<T: Shown + PartialEq>(setting: &str, then: &T, now: &T) -> Result<(), LoadError> {
    match then == now {
        true => Ok(()),
        false => Err(LoadError::Setting {
            setting: setting.to_owned(),
            then: then.shown(),
            now: now.shown(),
        }),
    }
}

/// Compiles a module to bytes that [`load`] takes. They are the same for the same arguments and kind of processor.
///
/// Size: the code, some 10 bytes for each call and access to memory, and what the module has besides its code.
///
/// # Errors
///
/// As for [`compile`].
pub fn precompile(wasm: &[u8], settings: &Settings) -> Result<Vec<u8>, CompileError> {
    let CompiledModule { info, image } = compile(wasm, settings)?;
    let artifact = Artifact {
        conditions: Conditions::of(settings),
        outline: outline(wasm, settings.keep_debug)?,
        code_offset: info.debug.code_offset,
        image,
    };
    let mut bytes = Vec::new();
    bytes.extend(MAGIC);
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend([0; 4]);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let mut bytes = postcard::to_extend(&(version, artifact), bytes).expect("a vector takes all");
    let sum = crc32fast::hash(&bytes[HEAD_BYTES..]);
    bytes[12..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
    Ok(bytes)
}

/// Everything that [`load`] compares, and what else [`precompile`]d bytes depend on, besides the module: where this is equal, in any process, what one
/// has made the other loads.
pub fn precompile_conditions(settings: &Settings) -> Vec<u8> {
    let isa = settings.isa().expect("settings are of a supported processor");
    let features = processor_features(&*isa);
    let style = settings.memory_style.shown();
    let level = format!("{:?}", settings.opt_level);
    let conditions = Conditions::of(settings);
    let all = (
        this_version(),
        conditions,
        features,
        style,
        level,
        settings.keep_debug,
    );
    postcard::to_allocvec(&all).expect("a vector takes all")
}

/// Whether bytes begin as those of [`precompile`] do, of any version.
pub fn is_precompiled(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// The module that [`precompile`] compiled.
///
/// Running its code is only safe if these are the bytes that it returned: they are believed. Cost: some milliseconds a megabyte.
///
/// # Errors
///
/// Bytes that are damaged or of another version, and code that is not right here: made for another kind of machine, for more than this
/// processor has, or with other settings. How far code was optimised, on how many threads, and whether sections for debuggers
/// were kept, may differ.
pub fn load(bytes: &[u8], settings: &Settings) -> Result<CompiledModule, LoadError> {
    if !is_precompiled(bytes) {
        return Err(LoadError::NotPrecompiled);
    }
    let damaged = |what: String| LoadError::Damaged { what };
    let Some((head, rest)) = bytes.split_at_checked(HEAD_BYTES) else {
        return Err(damaged(format!("{} bytes are too few", bytes.len())));
    };
    let word = |at: usize| u32::from_le_bytes(*head[at..].first_chunk().expect("16 bytes"));
    if word(8) != FORMAT {
        let by = format!("format {}", word(8));
        return Err(LoadError::Version { by });
    }
    let sum = crc32fast::hash(rest);
    if word(12) != sum {
        let then = word(12);
        return Err(damaged(format!(
            "its {} bytes sum up to {sum:#x} instead of {then:#x}",
            bytes.len()
        )));
    }
    let unreadable = |error: postcard::Error| damaged(error.to_string());
    let (by, rest) = postcard::take_from_bytes::<String>(rest).map_err(unreadable)?;
    if by != env!("CARGO_PKG_VERSION") {
        return Err(LoadError::Version { by });
    }
    let artifact: Artifact = postcard::from_bytes(rest).map_err(unreadable)?;
    artifact.conditions.check(&artifact.image, settings)?;
    let mut info = parse::parse(&artifact.outline, settings)?.info;
    info.debug.code_offset = artifact.code_offset;
    let image = artifact.image;
    let fits = image.imported_functions == info.imported_functions
        && image.functions.len() + info.imported_functions as usize == info.functions.len()
        && image.entry_trampolines.len() == info.types.len()
        && image.import_trampolines.len() == info.imported_functions as usize;
    match fits {
        true => Ok(CompiledModule { info, image }),
        false => Err(damaged("its code is another module's".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Features;

    fn settings() -> Settings {
        Settings::host().expect("a supported processor")
    }

    fn module() -> Vec<u8> {
        wat::parse_str(
            r#"(module $m
                (rec (type $t (func (param (ref null $u)) (result i32))) (type $u (func (param (ref null $t)))))
                (import "host" "f" (func $f (param i32) (result i32)))
                (memory 1 2) (table 4 funcref) (tag $e (param i32)) (global (mut i64) (i64.const 7))
                (func (export "run") (param i32) (result i32)
                    (block $caught (result i32)
                        (try_table (catch $e $caught)
                            (return (i32.load offset=8 (call $f (local.get 0)))))
                        (unreachable)))
                (func (export "t") (type $t) (i32.const 1))
                (func $u (type $u))
                (elem (i32.const 1) $u) (data (i32.const 16) "some data"))"#,
        )
        .expect("text")
    }

    #[test]
    fn what_is_loaded_is_what_was_compiled() {
        let wasm = module();
        for settings in [
            settings(),
            settings().fuel(true).memory_style(MemoryStyle::Bounded),
        ] {
            let compiled = compile(&wasm, &settings).expect("valid");
            let bytes = precompile(&wasm, &settings).expect("valid");
            assert_eq!(
                bytes,
                precompile(&wasm, &settings.clone().parallel(false)).expect("valid")
            );
            let loaded = load(&bytes, &settings).expect("as it was written");
            assert_eq!(loaded.image, compiled.image);
            assert_eq!(format!("{:?}", loaded.info), format!("{:?}", compiled.info));
        }
    }

    #[test]
    fn other_settings_are_named() {
        let bytes = precompile(&module(), &settings().fuel(true)).expect("valid");
        let mut costs = FuelCosts::new();
        costs.set("i32.load", 9).expect("an operator");
        let mut features = Features::default();
        features.set(Proposal::Threads, false);
        let fuel = settings().fuel(true);
        for (other, message) in [
            (settings(), "precompiled with fuel on, which is off here"),
            (
                fuel.clone().memory_style(MemoryStyle::Bounded),
                "precompiled with memory style reserved, which is bounded here",
            ),
            (
                fuel.clone().fuel_costs(costs),
                "precompiled with cost of i32_load 1, which is 9 here",
            ),
            (
                fuel.clone().features(features),
                "precompiled with proposal Threads on, which is off here",
            ),
        ] {
            let error = load(&bytes, &other).expect_err("another setting");
            assert_eq!(error.to_string(), message);
        }
        let as_fast = fuel
            .opt_level(crate::OptLevel::None)
            .parallel(false)
            .keep_debug(true);
        load(&bytes, &as_fast).expect("settings that may differ");
    }

    #[test]
    fn code_for_other_processors_is_refused_by_name() {
        let mut conditions = Conditions::of(&settings());
        let image = Image {
            cpu_features: vec!["has_wings".to_owned()],
            ..Image::default()
        };
        let error = conditions
            .check(&image, &settings())
            .expect_err("no such processor");
        assert!(error.to_string().contains("has_wings"), "{error}");
        conditions.target = "pdp11-unix".to_owned();
        let error = conditions
            .check(&image, &settings())
            .expect_err("no such machine");
        assert!(
            error
                .to_string()
                .starts_with("precompiled for pdp11-unix, this is "),
            "{error}"
        );
    }

    #[test]
    fn every_damaged_byte_and_every_lost_end_is_seen() {
        let good = precompile(&module(), &settings()).expect("valid");
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            assert!(load(&bytes, &settings()).is_err(), "byte {at}");
            assert!(load(&good[..at], &settings()).is_err(), "{at} bytes");
        }
        assert_eq!(
            load(&module(), &settings()).expect_err("a module"),
            LoadError::NotPrecompiled
        );
    }

    /// A sum that is right says nothing about who made it: reading what is behind it must not panic.
    #[test]
    fn made_up_bytes_are_an_error_or_a_module() {
        let good = precompile(&module(), &settings()).expect("valid");
        for at in HEAD_BYTES..good.len() {
            for byte in [0, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = byte;
                let sum = crc32fast::hash(&bytes[HEAD_BYTES..]);
                bytes[12..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
                let _ = load(&bytes, &settings());
            }
        }
    }
}
