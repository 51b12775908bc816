//! What of a module is called: `_start` of a program, or the export that the command line names.

use crate::failure::Failure;
use crate::values;
use selvedge::{ExternType, FuncType, Instance, Module, Store, Val};
use selvedge_wasi::WasiCtx;
use std::io::{self, Write};

/// The export that a WASI command is entered by, and the one a WASI reactor is set up by.
const START: &str = "_start";
const INITIALIZE: &str = "_initialize";

/// An exported function, and the arguments it will be called with.
pub(crate) struct Entry {
    name: String,
    params: Vec<Val>,
    results: usize,
    /// `_initialize` is exported and `_start` is not: it is to be called before anything else.
    is_reactor: bool,
}

impl Entry {
    /// Finds the function to call and parses its arguments, before anything of the module runs.
    pub(crate) fn find(module: &Module, invoke: Option<&str>, args: &[String]) -> Result<Entry, Failure> {
        let name = invoke.unwrap_or(START);
        let ty = match module.get_export(name) {
            Some(ExternType::Func(ty)) => ty,
            Some(_) => return Err(Failure::input(format_args!("export `{name}` is not a function"))),
            None => return Err(Failure::input(missing(module, invoke))),
        };
        let is_reactor = module.get_export(START).is_none() && module.get_export(INITIALIZE).is_some();
        let params = match invoke {
            Some(_) => parse(name, &ty, args)?,
            None if ty.params().is_empty() => Vec::new(), // what it is given goes through WASI
            None => {
                return Err(Failure::input(format_args!(
                    "`{START}` has parameters: use --invoke"
                )));
            }
        };
        Ok(Entry {
            name: name.to_owned(),
            params,
            results: ty.results().len(),
            is_reactor,
        })
    }

    /// Calls it and prints its results, one a line.
    pub(crate) fn call(&self, store: &mut Store<WasiCtx>, instance: Instance) -> Result<(), Failure> {
        if self.is_reactor && self.name != INITIALIZE {
            instance
                .call::<(), ()>(store, INITIALIZE, ())
                .map_err(Failure::of_call)?;
        }
        let func = instance.get_func(&mut *store, &self.name);
        let func = func.ok_or_else(|| Failure::input(format_args!("no function `{}`", self.name)))?;
        let mut results = vec![Val::I32(0); self.results];
        func.call(store, &self.params, &mut results)
            .map_err(Failure::of_call)?;
        print(&results).map_err(Failure::of_output)
    }
}

/// Parses the arguments by the parameter types of `ty`.
fn parse(name: &str, ty: &FuncType, args: &[String]) -> Result<Vec<Val>, Failure> {
    let params = ty.params();
    if params.len() != args.len() {
        let types: Vec<String> = params.iter().map(ToString::to_string).collect();
        return Err(Failure::input(format_args!(
            "`{name}` takes {} arguments ({}), {} given",
            params.len(),
            types.join(" "),
            args.len()
        )));
    }
    let parsed = args.iter().zip(params).enumerate().map(|(index, (arg, ty))| {
        values::parse(arg, ty)
            .map_err(|what| Failure::input(format_args!("argument {} of `{name}` {what}", index + 1)))
    });
    parsed.collect()
}

/// Says which functions there are instead.
fn missing(module: &Module, invoke: Option<&str>) -> String {
    let functions: Vec<String> = module
        .exports()
        .filter(|export| matches!(export.ty(), ExternType::Func(_)))
        .map(|export| format!("`{}`", export.name()))
        .take(10)
        .collect();
    let there_are = match functions.as_slice() {
        [] => "the module exports no function".to_owned(),
        some => format!("exported functions: {}", some.join(", ")),
    };
    match invoke {
        Some(name) => format!("no export `{name}`; {there_are}"),
        None => format!("no export `{START}`, name one with --invoke; {there_are}"),
    }
}

fn print(results: &[Val]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for result in results {
        writeln!(out, "{}", values::format(result))?;
    }
    out.flush()
}
