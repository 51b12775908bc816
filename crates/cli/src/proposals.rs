//! The option `--wasm`: which proposals modules may use.

use selvedge::Config;

/// A proposal's name on the command line, and its switch.
type Switch = (&'static str, fn(&mut Config, bool) -> &mut Config);

/// Those of [`Config`], by their names there.
const SWITCHES: [Switch; 17] = [
    ("bulk-memory", Config::wasm_bulk_memory),
    ("custom-page-sizes", Config::wasm_custom_page_sizes),
    ("exceptions", Config::wasm_exceptions),
    ("extended-const", Config::wasm_extended_const),
    ("function-references", Config::wasm_function_references),
    ("memory64", Config::wasm_memory64),
    ("multi-memory", Config::wasm_multi_memory),
    ("multi-value", Config::wasm_multi_value),
    ("mutable-global", Config::wasm_mutable_global),
    ("nontrapping-float-to-int", Config::wasm_nontrapping_float_to_int),
    ("reference-types", Config::wasm_reference_types),
    ("relaxed-simd", Config::wasm_relaxed_simd),
    ("sign-extension", Config::wasm_sign_extension),
    ("simd", Config::wasm_simd),
    ("tail-call", Config::wasm_tail_call),
    ("threads", Config::wasm_threads),
    ("wide-arithmetic", Config::wasm_wide_arithmetic),
];

/// What a command line says of proposals: `-W NAME`, `-W NAME=n`, more of them behind commas.
#[derive(clap::Args)]
pub(crate) struct Proposals {
    /// Let modules use a proposal, or with `=n` not: bulk-memory, custom-page-sizes (off), exceptions, extended-const,
    /// function-references, memory64, multi-memory, multi-value, mutable-global, nontrapping-float-to-int, reference-types,
    /// relaxed-simd, sign-extension, simd, tail-call, threads, wide-arithmetic (off). May be repeated.
    #[arg(short = 'W', long = "wasm", value_name = "NAME[=y|n],..", value_delimiter = ',', value_parser = proposal)]
    switched: Vec<Proposal>,
}

/// One of them, switched.
#[derive(Clone)]
struct Proposal {
    switch: fn(&mut Config, bool) -> &mut Config,
    on: bool,
}

impl Proposals {
    /// Switches them, in the order in which they stand: the last word counts.
    pub(crate) fn switch(&self, config: &mut Config) {
        for proposal in &self.switched {
            (proposal.switch)(config, proposal.on);
        }
    }
}

fn proposal(text: &str) -> Result<Proposal, String> {
    let (name, value) = text.split_once('=').unwrap_or((text, "y"));
    let on = match value {
        "y" | "yes" | "true" => true,
        "n" | "no" | "false" => false,
        _ => return Err(format!("expected y or n, not `{value}`")),
    };
    match SWITCHES.iter().find(|(known, _)| *known == name) {
        Some((_, switch)) => Ok(Proposal { switch: *switch, on }),
        None => Err(format!("unknown proposal, see `selvedge run --help`: `{name}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        proposals: Proposals,
    }

    #[test]
    fn the_help_names_all_of_them() {
        let help = <Line as clap::CommandFactory>::command()
            .render_long_help()
            .to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for (name, _) in SWITCHES {
            assert!(help.contains(&format!(" {name}")), "{name} is not in: {help}");
        }
    }

    #[test]
    fn names_take_yes_and_no() {
        assert!(proposal("simd").unwrap().on);
        assert!(proposal("simd=y").unwrap().on);
        assert!(!proposal("wide-arithmetic=n").unwrap().on);
        assert!(proposal("simd=maybe").is_err());
        assert!(proposal("garbage").is_err());
    }
}
