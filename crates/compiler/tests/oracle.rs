//! Random programs, against a slow interpreter that knows nothing of the compiler: results, traps, where they
//! happened, and fuel to the unit.
//!
//! The programs are text: statements over five i32 locals, nested at random, with blocks, loops that end, branches
//! of all kinds, calls, memory and division. The interpreter walks a tree from which the text is printed, and counts
//! operators as they are executed.
#![cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), unix))]

mod harness;

use std::fmt::Write;

use harness::{Guest, Outcome};
use selvedge_compiler::{MemoryStyle, OptLevel, Settings, TrapCode};

const LOCALS: usize = 5;
/// Words of memory that programs use; the module has one page.
const MEMORY: usize = 65536;

enum Expr {
    Const(i32),
    Local(usize),
    Binary(&'static str, Box<Expr>, Box<Expr>),
    Load(Box<Expr>),
    If(Box<Expr>, Box<Expr>, Box<Expr>),
    Select(Box<Expr>, Box<Expr>, Box<Expr>),
    Call(Box<Expr>, Box<Expr>),
}

enum Stmt {
    Set(usize, Expr),
    Store(Expr, Expr),
    If(Expr, Vec<Stmt>, Vec<Stmt>),
    Block(Vec<Stmt>),
    /// Repeats its body while a counter local of its own lasts.
    Loop(u32, Vec<Stmt>),
    BrIf(u32, Expr),
    BrTable(Vec<u32>, Expr),
    Br(u32),
    Return(Expr),
    Unreachable,
}

const OPERATORS: [&str; 12] = [
    "add", "sub", "mul", "div_s", "div_u", "rem_s", "rem_u", "xor", "shl", "lt_s", "eq", "ge_u",
];

/// xorshift64*: the programs are the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn expr(&mut self, depth: u32) -> Expr {
        let sub = |random: &mut Random| Box::new(random.expr(depth.saturating_sub(1)));
        match if depth == 0 { self.below(2) } else { self.below(12) } {
            0 => Expr::Const(match self.below(4) {
                0 => [0, -1, i32::MIN, 65532][self.below(4) as usize],
                _ => self.below(100) as i32,
            }),
            1 | 2 => Expr::Local(self.below(LOCALS as u64) as usize),
            3 => Expr::If(sub(self), sub(self), sub(self)),
            4 => Expr::Select(sub(self), sub(self), sub(self)),
            5 | 6 => Expr::Load(sub(self)),
            7 if self.below(3) == 0 => Expr::Call(sub(self), sub(self)),
            _ => Expr::Binary(
                OPERATORS[self.below(OPERATORS.len() as u64) as usize],
                sub(self),
                sub(self),
            ),
        }
    }

    /// Statements, inside so many labels (the function's own not counted).
    fn stmts(&mut self, depth: u32, labels: u32) -> Vec<Stmt> {
        (0..1 + self.below(4)).map(|_| self.stmt(depth, labels)).collect()
    }

    fn stmt(&mut self, depth: u32, labels: u32) -> Stmt {
        let label = |random: &mut Random| random.below(u64::from(labels) + 1) as u32;
        match if depth == 0 { self.below(4) } else { self.below(16) } {
            0..=2 => Stmt::Set(self.below(LOCALS as u64) as usize, self.expr(3)),
            3 => Stmt::Store(self.expr(2), self.expr(2)),
            4..=6 => {
                let other = if self.below(2) == 0 {
                    vec![]
                } else {
                    self.stmts(depth - 1, labels + 1)
                };
                Stmt::If(self.expr(2), self.stmts(depth - 1, labels + 1), other)
            }
            7 | 8 => Stmt::Block(self.stmts(depth - 1, labels + 1)),
            9 | 10 => Stmt::Loop(1 + self.below(4) as u32, self.stmts(depth - 1, labels + 2)),
            11 | 12 => Stmt::BrIf(label(self), self.expr(2)),
            13 => {
                let targets = (0..1 + self.below(4)).map(|_| label(self)).collect();
                Stmt::BrTable(targets, self.expr(1))
            }
            14 if self.below(3) == 0 => Stmt::Br(label(self)),
            14 => Stmt::Return(self.expr(2)),
            _ if self.below(6) == 0 => Stmt::Unreachable,
            _ => Stmt::Set(0, self.expr(4)),
        }
    }
}

// Printing.

fn print_expr(out: &mut String, expr: &Expr) {
    let mut all = |parts: &[&Expr], last: &str| {
        parts.iter().for_each(|part| print_expr(out, part));
        writeln!(out, "{last}").unwrap();
    };
    match expr {
        Expr::Const(value) => all(&[], &format!("i32.const {value}")),
        Expr::Local(local) => all(&[], &format!("local.get {local}")),
        Expr::Binary(op, a, b) => all(&[a, b], &format!("i32.{op}")),
        Expr::Load(address) => all(&[address], "i32.load offset=4"),
        Expr::Select(a, b, c) => all(&[a, b, c], "select"),
        Expr::Call(a, b) => all(&[a, b], "call $callee"),
        Expr::If(condition, a, b) => {
            all(&[condition], "if (result i32)");
            print_expr(out, a);
            out.push_str("else\n");
            print_expr(out, b);
            out.push_str("end\n");
        }
    }
}

/// `counters`: how many loops are around; each has a local of its own behind the five.
fn print_stmts(out: &mut String, stmts: &[Stmt], counters: usize) {
    for stmt in stmts {
        match stmt {
            Stmt::Set(local, value) => {
                print_expr(out, value);
                writeln!(out, "local.set {local}").unwrap();
            }
            Stmt::Store(address, value) => {
                print_expr(out, address);
                print_expr(out, value);
                out.push_str("i32.store\n");
            }
            Stmt::If(condition, then, otherwise) => {
                print_expr(out, condition);
                out.push_str("if\n");
                print_stmts(out, then, counters);
                if !otherwise.is_empty() {
                    out.push_str("else\n");
                    print_stmts(out, otherwise, counters);
                }
                out.push_str("end\n");
            }
            Stmt::Block(body) => {
                out.push_str("block\n");
                print_stmts(out, body, counters);
                out.push_str("end\n");
            }
            Stmt::Loop(turns, body) => {
                let counter = LOCALS + counters;
                writeln!(out, "i32.const {turns}\nlocal.set {counter}\nblock\nloop").unwrap();
                writeln!(out, "local.get {counter}\ni32.eqz\nbr_if 1").unwrap();
                writeln!(
                    out,
                    "local.get {counter}\ni32.const 1\ni32.sub\nlocal.set {counter}"
                )
                .unwrap();
                print_stmts(out, body, counters + 1);
                out.push_str("br 0\nend\nend\n");
            }
            Stmt::BrIf(label, condition) => {
                print_expr(out, condition);
                print_br(out, "br_if", *label);
            }
            Stmt::BrTable(targets, index) => {
                print_expr(out, index);
                let targets: Vec<_> = targets.iter().map(u32::to_string).collect();
                writeln!(out, "br_table {}", targets.join(" ")).unwrap();
            }
            Stmt::Br(label) => print_br(out, "br", *label),
            Stmt::Return(value) => {
                print_expr(out, value);
                out.push_str("local.set 0\n");
                out.push_str("local.get 0\nreturn\n");
            }
            Stmt::Unreachable => out.push_str("unreachable\n"),
        }
    }
}

fn print_br(out: &mut String, what: &str, label: u32) {
    writeln!(out, "{what} {label}").unwrap();
}

fn module(stmts: &[Stmt]) -> String {
    let mut body = String::new();
    // The outermost block is what branches to the function's own label go to.
    body.push_str("block\n");
    print_stmts(&mut body, stmts, 0);
    body.push_str("end\nlocal.get 0\n");
    format!(
        "(module (memory (export \"memory\") 1)
        (func $callee (param i32 i32) (result i32)
            (if (result i32) (local.get 0) (then (i32.div_u (local.get 1) (local.get 0))) (else (local.get 1))))
        (func (export \"f\") (param i32 i32 i32 i32 i32) (result i32) (local {}){body}))",
        "i32 ".repeat(40)
    )
}

// Interpreting.

/// Why the flow leaves where it is.
enum Leave {
    Branch(u32),
    Return(i32),
    Trap(TrapCode),
}

struct Machine {
    locals: [i32; LOCALS],
    memory: Vec<u8>,
    fuel: i64,
}

type Step<T> = Result<T, Leave>;

impl Machine {
    /// Executes one operator.
    fn pay(&mut self) {
        self.fuel += 1;
    }

    fn expr(&mut self, expr: &Expr) -> Step<i32> {
        match expr {
            Expr::Const(value) => {
                self.pay();
                Ok(*value)
            }
            Expr::Local(local) => {
                self.pay();
                Ok(self.locals[*local])
            }
            Expr::Binary(op, a, b) => {
                let (a, b) = (self.expr(a)?, self.expr(b)?);
                self.pay();
                binary(op, a, b).map_err(Leave::Trap)
            }
            Expr::Load(address) => {
                let address = self.expr(address)?;
                self.pay();
                let at = self.bytes(address, 4)?;
                Ok(i32::from_le_bytes(self.memory[at..at + 4].try_into().unwrap()))
            }
            Expr::If(condition, a, b) => {
                let condition = self.expr(condition)?;
                self.pay();
                self.expr(if condition != 0 { a } else { b })
            }
            Expr::Select(a, b, c) => {
                let (a, b, c) = (self.expr(a)?, self.expr(b)?, self.expr(c)?);
                self.pay();
                Ok(if c != 0 { a } else { b })
            }
            Expr::Call(a, b) => {
                let (a, b) = (self.expr(a)?, self.expr(b)?);
                // The call, the entry, local.get and if; then one arm.
                self.fuel += 4;
                if a == 0 {
                    self.pay();
                    return Ok(b);
                }
                self.fuel += 3;
                binary("div_u", b, a).map_err(Leave::Trap)
            }
        }
    }

    fn bytes(&self, address: i32, offset: usize) -> Step<usize> {
        let at = address as u32 as usize + offset;
        if at + 4 <= MEMORY {
            Ok(at)
        } else {
            Err(Leave::Trap(TrapCode::MemoryOutOfBounds))
        }
    }

    fn stmts(&mut self, stmts: &[Stmt]) -> Step<()> {
        stmts.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    /// Runs what a label is around: a branch to it ends it.
    fn labelled(&mut self, body: impl FnOnce(&mut Machine) -> Step<()>) -> Step<()> {
        match body(self) {
            Err(Leave::Branch(0)) => Ok(()),
            Err(Leave::Branch(label)) => Err(Leave::Branch(label - 1)),
            other => other,
        }
    }

    fn stmt(&mut self, stmt: &Stmt) -> Step<()> {
        match stmt {
            Stmt::Set(local, value) => {
                self.locals[*local] = self.expr(value)?;
                self.pay();
            }
            Stmt::Store(address, value) => {
                let (address, value) = (self.expr(address)?, self.expr(value)?);
                self.pay();
                let at = self.bytes(address, 0)?;
                self.memory[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            Stmt::If(condition, then, otherwise) => {
                let condition = self.expr(condition)?;
                self.pay();
                self.labelled(|m| m.stmts(if condition != 0 { then } else { otherwise }))?;
            }
            Stmt::Block(body) => self.labelled(|m| m.stmts(body))?,
            Stmt::Loop(turns, body) => {
                self.fuel += 2;
                self.labelled(|m| m.turns(*turns, body))?;
            }
            Stmt::BrIf(label, condition) => {
                let condition = self.expr(condition)?;
                self.pay();
                if condition != 0 {
                    return Err(Leave::Branch(*label));
                }
            }
            Stmt::BrTable(targets, index) => {
                let index = self.expr(index)? as u32 as usize;
                self.pay();
                return Err(Leave::Branch(targets[index.min(targets.len() - 1)]));
            }
            Stmt::Br(label) => {
                self.pay();
                return Err(Leave::Branch(*label));
            }
            Stmt::Return(value) => {
                self.locals[0] = self.expr(value)?;
                self.fuel += 2;
                return Err(Leave::Return(self.locals[0]));
            }
            Stmt::Unreachable => return Err(Leave::Trap(TrapCode::Unreachable)),
        }
        Ok(())
    }

    /// A loop's turns; the label of the loop itself starts another.
    fn turns(&mut self, mut left: u32, body: &[Stmt]) -> Step<()> {
        loop {
            self.fuel += 3;
            if left == 0 {
                // `br_if 1`, of which the loop's label is behind us.
                return Err(Leave::Branch(0));
            }
            self.fuel += 4;
            left -= 1;
            match self.stmts(body) {
                Ok(()) => self.pay(),
                Err(Leave::Branch(0)) => {}
                Err(Leave::Branch(label)) => return Err(Leave::Branch(label - 1)),
                Err(other) => return Err(other),
            }
        }
    }
}

fn binary(op: &str, a: i32, b: i32) -> Result<i32, TrapCode> {
    let (ua, ub) = (a as u32, b as u32);
    if op.starts_with("div") || op.starts_with("rem") {
        if b == 0 {
            return Err(TrapCode::IntegerDivisionByZero);
        }
        if op == "div_s" && a == i32::MIN && b == -1 {
            return Err(TrapCode::IntegerOverflow);
        }
    }
    Ok(match op {
        "add" => a.wrapping_add(b),
        "sub" => a.wrapping_sub(b),
        "mul" => a.wrapping_mul(b),
        "div_s" => a / b,
        "div_u" => (ua / ub) as i32,
        "rem_s" => a.wrapping_rem(b),
        "rem_u" => (ua % ub) as i32,
        "xor" => a ^ b,
        "shl" => a.wrapping_shl(ub),
        "lt_s" => i32::from(a < b),
        "eq" => i32::from(a == b),
        "ge_u" => i32::from(ua >= ub),
        other => unreachable!("{other}"),
    })
}

/// Result or trap, and the fuel spent.
fn interpret(stmts: &[Stmt], args: [i32; LOCALS]) -> (Result<i32, TrapCode>, i64, Vec<u8>) {
    // The entry costs one.
    let mut machine = Machine {
        locals: args,
        memory: vec![0; MEMORY],
        fuel: 1,
    };
    let result = match machine.labelled(|m| m.stmts(stmts)) {
        Ok(()) => {
            machine.pay();
            Ok(machine.locals[0])
        }
        Err(Leave::Return(value)) => Ok(value),
        Err(Leave::Trap(trap)) => Err(trap),
        Err(Leave::Branch(_)) => unreachable!("the outermost label takes the last branch"),
    };
    (result, machine.fuel, machine.memory)
}

const PLENTY: i64 = 1 << 40;

#[test]
fn compiled_code_agrees_with_an_interpreter() {
    let programs: u64 = std::env::var("ORACLE_PROGRAMS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(150);
    let base = Settings::host()
        .unwrap()
        .memory_style(MemoryStyle::Bounded)
        .parallel(false);
    let (mut returned, mut trapped) = (0, 0);
    for seed in 1..=programs {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let stmts = random.stmts(4, 0);
        let wat = module(&stmts);
        for settings in [
            base.clone().fuel(true),
            base.clone().fuel(true).opt_level(OptLevel::None),
            base.clone(),
        ] {
            let unmetered = settings == base;
            let mut guest = Guest::new(&wat, &settings);
            for round in 0..6 {
                let args = std::array::from_fn(|i| [0, 1, -1, 7, 65536, i32::MIN][(round + i) % 6]);
                let (result, fuel, memory) = interpret(&stmts, args);
                guest.memory().fill(0);
                *guest.fuel() = PLENTY;
                let words: Vec<u64> = args.iter().map(|arg| u64::from(*arg as u32)).collect();
                let (got, pending) = match guest.call("f", &words) {
                    Outcome::Returned(values) => (Ok(values[0] as u32 as i32), 0),
                    Outcome::Trapped(trap, site) => (Err(trap), i64::from(site.fuel)),
                };
                assert_eq!(got, result, "seed {seed}, {args:?}\n{wat}");
                let bytes: Vec<u8> = guest
                    .memory()
                    .iter()
                    .flat_map(|word| word.to_le_bytes())
                    .take(MEMORY)
                    .collect();
                assert!(bytes == memory, "memory differs: seed {seed}, {args:?}\n{wat}");
                if !unmetered {
                    assert_eq!(
                        PLENTY - *guest.fuel() + pending,
                        fuel,
                        "fuel: seed {seed}, {args:?}\n{wat}"
                    );
                }
                *(if got.is_ok() { &mut returned } else { &mut trapped }) += 1;
            }
        }
    }
    assert!(
        returned > programs && trapped > programs,
        "{returned} returned, {trapped} trapped"
    );
}
