//! One script after another on one store: the commands and what each of them asserts.
//!
//! Terms
//! - A *verdict* is what came of a command: passed, or why it stopped ([`Stop`]).
//! - An *outcome* is what came of running guest code: its results, or the error that ended it. Whether an
//!   outcome is good is for the command to say: `assert_trap` wants the error.
//!
//! Modules without a name are the *current* one until the next module. One that cannot be instantiated leaves no
//! current module behind, so that the commands after it fail by their own words and not on an older module.
//!
//! A module that asks for a proposal that is not supported is skipped by that proposal's name, and so is what follows from it: commands
//! on its instance, and modules that import from a name under which it would have been registered.
//!
//! Messages: a trap's words are compared with the script's, see [`is_same_trap`]. For modules that must be
//! refused only the refusal counts, as every implementation words it in its own way; for modules that do not
//! link, the error has to contain the script's words.

use crate::script::Script;
use crate::values;
use crate::{Failure, Options, Report, Skip, modules, spectest};
use selvedge::{Error, Exception, Instance, Linker, Module, SharedMemory, Store, Trap, Val};
use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::{self, ScopedJoinHandle};
use wast::lexer::Lexer;
use wast::parser::{self, ParseBuffer};
use wast::token::{Id, Span};
use wast::{QuoteWat, WastDirective, WastExecute, WastInvoke, WastThread, Wat};

/// Why a command did not pass.
pub(crate) enum Stop {
    /// It did something else than the script says.
    Failed(String),
    /// It asks for what is not supported, named here.
    Skipped(String),
}

impl Stop {
    pub(crate) fn unsupported(what: &str) -> Stop {
        Stop::Skipped(format!("{what} not supported"))
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(format!("{error:#}"))
    }
}

type Verdict<T = ()> = Result<T, Stop>;
type Outcome = Result<Vec<Val>, Error>;

/// Runs scripts on one store, which keeps what they register.
pub struct WastRunner {
    options: Options,
    store: Store<()>,
    linker: Linker<()>,
    instances: HashMap<String, Instance>,
    current: Option<Instance>,
    definitions: HashMap<String, Module>,
    last_definition: Option<Module>,
    skipped: Skipped,
    /// Modules of the script that started this one as a thread: what of them can be shared.
    shared: SharedModules,
}

/// What would be there if its module were supported.
#[derive(Default)]
struct Skipped {
    /// Why there is no current instance, if that is why.
    current: Option<String>,
    /// Instances and module definitions by their ids.
    ids: HashMap<String, String>,
    /// Instances by the names that they were to be registered under.
    names: HashMap<String, String>,
}

/// Exported shared memories, by the names of their modules.
type SharedModules = HashMap<String, Vec<(String, SharedMemory)>>;

/// Threads of a script that run, by name.
type Threads<'scope> = HashMap<String, ScopedJoinHandle<'scope, Report>>;

/// A runner that is not made yet: its store is made on its own thread.
struct Child {
    options: Options,
    shared: SharedModules,
}

impl Child {
    fn run(self, name: &str, text: &str, directives: Vec<WastDirective<'_>>) -> Report {
        let mut report = Report::default();
        match WastRunner::new(&self.options) {
            Ok(mut runner) => {
                runner.shared = self.shared;
                runner.run_directives(name, text, directives, &mut report);
            }
            Err(error) => report = Report::refused(name, format!("cannot set up a store: {error:#}")),
        }
        report
    }
}

/// Adds what a thread reports.
fn join(thread: ScopedJoinHandle<'_, Report>, report: &mut Report) {
    match thread.join() {
        Ok(other) => {
            report.passed += other.passed;
            report.failed.extend(other.failed);
            report.skipped.extend(other.skipped);
        }
        Err(panic) => resume_unwind(panic),
    }
}

impl WastRunner {
    /// Makes a store with the module `spectest` to import from.
    ///
    /// # Errors
    /// Limits of the engine that leave no room for a store or for the table and memory of `spectest`.
    pub fn new(options: &Options) -> Result<WastRunner, Error> {
        let engine = &options.engine;
        let mut store = Store::new(engine, ());
        let mut linker = Linker::new(engine);
        linker.allow_shadowing(true); // a script may register a name twice
        spectest::define(&mut linker, &mut store)?;
        Ok(WastRunner {
            options: options.clone(),
            store,
            linker,
            instances: HashMap::new(),
            current: None,
            definitions: HashMap::new(),
            last_definition: None,
            skipped: Skipped::default(),
            shared: HashMap::new(),
        })
    }

    /// Runs the script `text`, which the report calls `name`.
    ///
    /// Never panics: a panic of the runtime is a failure, and ends the script, as the store cannot be trusted
    /// any more.
    pub fn run(&mut self, name: &str, text: &str) -> Report {
        let mut report = Report::default();
        if let Err(error) = self.run_text(name, text, &mut report) {
            report
                .failed
                .push(failure(name, text, error.span(), error.message()));
        }
        report
    }

    /// Runs all commands, or none if the text cannot be parsed.
    fn run_text(&mut self, name: &str, text: &str, report: &mut Report) -> Result<(), wast::Error> {
        let mut lexer = Lexer::new(text);
        lexer.allow_confusing_unicode(true); // names.wast is made of it
        let buffer = ParseBuffer::new_with_lexer(lexer)?;
        let script = parser::parse::<Script<'_>>(&buffer)?;
        self.run_directives(name, text, script.directives, report);
        Ok(())
    }

    /// Runs commands in order. Threads that a script starts and does not wait for are waited for at the end, and then count.
    fn run_directives(
        &mut self,
        name: &str,
        text: &str,
        directives: Vec<WastDirective<'_>>,
        report: &mut Report,
    ) {
        thread::scope(|scope| {
            let mut threads = Threads::new();
            let count = directives.len();
            for (index, directive) in directives.into_iter().enumerate() {
                let span = directive.span();
                let ran = catch_unwind(AssertUnwindSafe(|| match directive {
                    WastDirective::Thread(script) => {
                        let (id, child) = (script.name.name().to_owned(), self.child(&script)?);
                        let run = move || child.run(name, text, script.directives);
                        threads.insert(id, scope.spawn(run));
                        Ok(())
                    }
                    WastDirective::Wait { thread, .. } => {
                        let started = threads.remove(thread.name());
                        join(started.ok_or_else(|| unknown("thread", Some(thread)))?, report);
                        Ok(())
                    }
                    directive => self.command(directive),
                }));
                match ran {
                    Ok(Ok(())) => report.passed += 1,
                    Ok(Err(Stop::Failed(message))) => report.failed.push(failure(name, text, span, message)),
                    Ok(Err(Stop::Skipped(reason))) => {
                        let (line, _) = place(text, span);
                        report.skipped.push(Skip {
                            file: name.to_owned(),
                            line,
                            reason,
                        });
                    }
                    Err(panic) => {
                        let rest = count - index - 1;
                        let message = format!("panicked: {}; {rest} commands not run", panic_words(&*panic));
                        report.failed.push(failure(name, text, span, message));
                        break;
                    }
                }
            }
            for (_, started) in threads {
                join(started, report);
            }
        });
    }

    /// What a thread of a script starts with: a store of its own, and the shared memories of one module.
    fn child(&mut self, thread: &WastThread<'_>) -> Verdict<Child> {
        let mut shared = HashMap::new();
        if let Some(id) = thread.shared_module {
            let exports = self.instance(Some(id))?.exports(&mut self.store);
            let memories = exports
                .into_iter()
                .filter_map(|(name, item)| Some((name, item.into_shared_memory()?)));
            shared.insert(id.name().to_owned(), memories.collect());
        }
        Ok(Child {
            options: self.options.clone(),
            shared,
        })
    }

    fn command(&mut self, directive: WastDirective<'_>) -> Verdict {
        if let Some(units) = self.options.fuel_units {
            self.store.set_fuel(units)?;
        }
        match directive {
            WastDirective::Module(module) => self.module(module),
            WastDirective::ModuleDefinition(module) => self.define(module),
            WastDirective::ModuleInstance { instance, module, .. } => {
                self.instantiate_defined(instance, module)
            }
            WastDirective::Register { name, module, .. } => self.register(name, module),
            WastDirective::Invoke(invoke) => self.invoke(&invoke)?.map(drop).map_err(Stop::from),
            WastDirective::AssertReturn { exec, results, .. } => {
                let values = self.execute(exec)??;
                values::compare(&self.store, &values, &results)
            }
            WastDirective::AssertTrap { exec, message, .. } => {
                let outcome = self.execute(exec)?;
                self.assert_trap(outcome, message)
            }
            WastDirective::AssertExhaustion { call, message, .. } => {
                let outcome = self.invoke(&call)?;
                self.assert_trap(outcome, message)
            }
            WastDirective::AssertMalformed {
                mut module, message, ..
            }
            | WastDirective::AssertInvalid {
                mut module, message, ..
            } => modules::refuse(&self.options.engine, &mut module, message),
            WastDirective::AssertUnlinkable { module, message, .. } => {
                self.assert_unlinkable(module, message)
            }
            WastDirective::AssertMalformedCustom {
                mut module, message, ..
            } => modules::refuse_malformed_custom(&mut module, message),
            WastDirective::AssertInvalidCustom { mut module, .. } => {
                modules::refuse_invalid_custom(&mut module)
            }
            WastDirective::AssertException { exec, .. } => {
                let outcome = self.execute(exec)?;
                self.assert_exception(outcome)
            }
            WastDirective::AssertSuspension { .. } => Err(Stop::unsupported("suspensions")),
            WastDirective::Thread(_) | WastDirective::Wait { .. } => {
                unreachable!("threads are started by `run_directives`")
            }
        }
    }

    /// `(module $name? ..)`: defines and instantiates.
    fn module(&mut self, mut module: QuoteWat<'_>) -> Verdict {
        self.current = None;
        self.skipped.current = None;
        let name = module.name();
        let compiled = modules::compile(&self.options, &mut module);
        let made = compiled.and_then(|module| Ok(self.instantiate(&module)??));
        let instance = made.inspect_err(|stop| self.skipped.note(name, stop))?;
        self.name_instance(name, instance);
        Ok(())
    }

    /// `(module definition $name? ..)`.
    fn define(&mut self, mut module: QuoteWat<'_>) -> Verdict {
        let compiled = modules::compile(&self.options, &mut module);
        let compiled = compiled.inspect_err(|stop| self.skipped.note(module.name(), stop))?;
        if let Some(id) = module.name() {
            self.definitions.insert(id.name().to_owned(), compiled.clone());
        }
        self.last_definition = Some(compiled);
        Ok(())
    }

    /// `(module instance $instance? $module?)`.
    fn instantiate_defined(&mut self, instance: Option<Id<'_>>, module: Option<Id<'_>>) -> Verdict {
        let found = match module {
            Some(id) => self.definitions.get(id.name()),
            None => self.last_definition.as_ref(),
        };
        let module = found
            .cloned()
            .ok_or_else(|| self.skipped.or_unknown("module definition", module))?;
        self.current = None;
        self.skipped.current = None;
        let made = self.instantiate(&module)??;
        self.name_instance(instance, made);
        Ok(())
    }

    /// The instance, or why it cannot be made; skipped if it imports from one that was.
    fn instantiate(&mut self, module: &Module) -> Verdict<Result<Instance, Error>> {
        for import in module.imports() {
            if let Some(reason) = self.skipped.names.get(import.module()) {
                return Err(Stop::Skipped(reason.clone()));
            }
        }
        Ok(self.linker.instantiate(&mut self.store, module))
    }

    fn name_instance(&mut self, id: Option<Id<'_>>, instance: Instance) {
        if let Some(id) = id {
            self.instances.insert(id.name().to_owned(), instance);
        }
        self.current = Some(instance);
        self.skipped.current = None;
    }

    /// The instance of that name, or the current one.
    fn instance(&self, id: Option<Id<'_>>) -> Verdict<Instance> {
        let found = match id {
            Some(id) => self.instances.get(id.name()).copied(),
            None => self.current,
        };
        found.ok_or_else(|| self.skipped.or_unknown("instance", id))
    }

    fn register(&mut self, name: &str, id: Option<Id<'_>>) -> Verdict {
        if let Some(memories) = id.and_then(|id| self.shared.get(id.name())) {
            for (export, memory) in memories {
                self.linker.define(name, export, memory.clone())?;
            }
            return Ok(());
        }
        let found = self.instance(id);
        if let Err(Stop::Skipped(reason)) = &found {
            self.skipped.names.insert(name.to_owned(), reason.clone());
        }
        self.linker.instance(&mut self.store, name, found?)?;
        self.skipped.names.remove(name);
        Ok(())
    }

    fn execute(&mut self, exec: WastExecute<'_>) -> Verdict<Outcome> {
        match exec {
            WastExecute::Invoke(invoke) => self.invoke(&invoke),
            WastExecute::Wat(module) => {
                let compiled = modules::compile(&self.options, &mut QuoteWat::Wat(module))?;
                Ok(self.instantiate(&compiled)?.map(|_| Vec::new()))
            }
            WastExecute::Get { module, global, .. } => {
                let instance = self.instance(module)?;
                let found = instance.get_global(&mut self.store, global);
                let global = found.ok_or_else(|| Stop::Failed(format!("no exported global `{global}`")))?;
                Ok(Ok(vec![global.get(&mut self.store)]))
            }
        }
    }

    fn invoke(&mut self, invoke: &WastInvoke<'_>) -> Verdict<Outcome> {
        let instance = self.instance(invoke.module)?;
        let found = instance.get_func(&mut self.store, invoke.name);
        let func = found.ok_or_else(|| Stop::Failed(format!("no exported function `{}`", invoke.name)))?;
        let mut arguments = Vec::with_capacity(invoke.args.len());
        for arg in &invoke.args {
            arguments.push(values::argument(&mut self.store, arg)?);
        }
        let mut results = vec![Val::I32(0); func.ty(&self.store).results().len()];
        Ok(func
            .call(&mut self.store, &arguments, &mut results)
            .map(|()| results))
    }

    fn assert_trap(&self, outcome: Outcome, expected: &str) -> Verdict {
        let error = match outcome {
            Ok(results) => {
                let results = values::list(&self.store, &results);
                return Err(Stop::Failed(format!(
                    "expected trap `{expected}`, got results {results}"
                )));
            }
            Err(error) => error,
        };
        match error.downcast_ref::<Trap>() {
            Some(trap) if is_same_trap(expected, &trap.to_string()) => Ok(()),
            Some(trap) => Err(Stop::Failed(format!("expected trap `{expected}`, got `{trap}`"))),
            None => Err(Stop::Failed(format!(
                "expected trap `{expected}`, got the error: {error:#}"
            ))),
        }
    }

    fn assert_exception(&self, outcome: Outcome) -> Verdict {
        match outcome {
            Ok(results) => {
                let results = values::list(&self.store, &results);
                Err(Stop::Failed(format!(
                    "expected an exception, got results {results}"
                )))
            }
            Err(error) if error.is::<Exception>() => Ok(()),
            Err(error) => Err(Stop::Failed(format!(
                "expected an exception, got the error: {error:#}"
            ))),
        }
    }

    fn assert_unlinkable(&mut self, module: Wat<'_>, expected: &str) -> Verdict {
        let compiled = modules::compile(&self.options, &mut QuoteWat::Wat(module))?;
        let error = match self.instantiate(&compiled)? {
            Ok(_) => return Err(Stop::Failed(format!("the module links, expected: {expected}"))),
            Err(error) => error,
        };
        let is_expected = match error.downcast_ref::<Trap>() {
            Some(trap) => is_misfit(expected, trap),
            None => format!("{error:#}").contains(expected),
        };
        if is_expected {
            return Ok(());
        }
        Err(Stop::Failed(format!(
            "expected link error `{expected}`, got: {error:#}"
        )))
    }
}

impl Skipped {
    /// What is to come of commands that name this, if it was skipped.
    fn note(&mut self, id: Option<Id<'_>>, stop: &Stop) {
        let Stop::Skipped(reason) = stop else { return };
        self.current = Some(reason.clone());
        if let Some(id) = id {
            self.ids.insert(id.name().to_owned(), reason.clone());
        }
    }

    /// Why a thing is not there.
    fn or_unknown(&self, what: &str, id: Option<Id<'_>>) -> Stop {
        let reason = match id {
            Some(id) => self.ids.get(id.name()),
            None => self.current.as_ref(),
        };
        match reason {
            Some(reason) => Stop::Skipped(reason.clone()),
            None => unknown(what, id),
        }
    }
}

/// Whether a trap's words are those of a script. Scripts shorten them (`undefined`, `out of bounds`) and lengthen
/// them (`uninitialized element 7`), so either may begin with the other; a trap with two names in the
/// specification joins them by a colon.
fn is_same_trap(expected: &str, actual: &str) -> bool {
    actual
        .split(": ")
        .any(|words| words.starts_with(expected) || expected.starts_with(words))
}

/// Before bulk memory a segment that lies outside of its memory or table was a link error; now it is a trap.
fn is_misfit(expected: &str, trap: &Trap) -> bool {
    match expected {
        "data segment does not fit" => is_same_trap("out of bounds memory access", &trap.to_string()),
        "elements segment does not fit" => is_same_trap("out of bounds table access", &trap.to_string()),
        _ => false,
    }
}

fn unknown(what: &str, id: Option<Id<'_>>) -> Stop {
    Stop::Failed(match id {
        Some(id) => format!("no {what} `${}`", id.name()),
        None => format!("no current {what}"),
    })
}

fn failure(file: &str, text: &str, span: Span, message: String) -> Failure {
    let (line, column) = place(text, span);
    Failure {
        file: file.to_owned(),
        line,
        column,
        message,
    }
}

/// Line and column, from 1.
fn place(text: &str, span: Span) -> (usize, usize) {
    let (line, column) = span.linecol_in(text);
    (line + 1, column + 1)
}

fn panic_words(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests;
