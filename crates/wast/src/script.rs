//! The commands of a script's text.
//!
//! `wast` takes a text for a script if its first command is one of those that most scripts begin with, and for the fields of one module otherwise.
//! Threads are not among them: a script that begins with `(thread ..)` would be refused as an unknown field. Here it is a script.

use wast::kw;
use wast::parser::{Parse, Parser, Result};
use wast::{Wast, WastDirective};

/// What a script's text says.
pub(crate) struct Script<'a> {
    pub(crate) directives: Vec<WastDirective<'a>>,
}

impl<'a> Parse<'a> for Script<'a> {
    fn parse(parser: Parser<'a>) -> Result<Script<'a>> {
        let is_overlooked = parser.peek2::<kw::thread>()? || parser.peek2::<kw::wait>()?;
        let directives = match is_overlooked {
            true => commands(parser)?,
            false => parser.parse::<Wast<'a>>()?.directives,
        };
        Ok(Script { directives })
    }
}

/// As `wast` reads them, with the annotations that it knows.
fn commands<'a>(parser: Parser<'a>) -> Result<Vec<WastDirective<'a>>> {
    let names = [
        "custom",
        "producers",
        "name",
        "dylink.0",
        "metadata.code.branch_hint",
    ];
    let _known = names.map(|name| parser.register_annotation(name));
    let mut directives = Vec::new();
    while !parser.is_empty() {
        directives.push(parser.parens(|parser| parser.parse())?);
    }
    Ok(directives)
}
