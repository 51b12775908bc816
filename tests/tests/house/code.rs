//! As much of Rust as it takes to find its functions, and how many lines each has.

/// The functions with bodies in this text, in order, and their lines: from `fn` to the brace that closes it.
pub fn functions(text: &str) -> Vec<(String, usize)> {
    let code = only_code(text);
    let starts = code.match_indices("fn ").map(|(at, _)| at);
    let starts = starts.filter(|at| !code[..*at].ends_with(is_of_a_name));
    starts.filter_map(|at| function(&code[at..])).collect()
}

/// The function whose `fn` this code starts with, if it has a name and a body.
fn function(code: &str) -> Option<(String, usize)> {
    let name = &code["fn ".len()..];
    let name = &name[..name.find(['(', '<'])?];
    // What a signature has in braces is in brackets too.
    let mut brackets = 0;
    let signature = code.find(|c| {
        brackets += i32::from(matches!(c, '(' | '[')) - i32::from(matches!(c, ')' | ']'));
        brackets == 0 && matches!(c, '{' | ';')
    })?;
    let mut braces = 0;
    let body = code[signature..].find(|c| {
        braces += i32::from(c == '{') - i32::from(c == '}');
        braces == 0
    })?;
    let has_body = code[signature..].starts_with('{') && !name.is_empty();
    has_body.then(|| {
        let lines = code[..signature + body].lines().count();
        (name.to_owned(), lines)
    })
}

fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The text without comments, and without what is between quotes. Lines stay.
fn only_code(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = skipped(rest, code.chars().next_back());
        match skipped {
            0 => code.push(next),
            _ => code.extend(rest[..skipped].chars().filter(|c| *c == '\n')),
        }
        rest = &rest[skipped.max(next.len_utf8())..];
    }
    code
}

/// How many bytes of this are a comment or a literal, if it starts with one.
fn skipped(text: &str, before: Option<char>) -> usize {
    let up_to = |end: &str, from: usize| {
        text[from..]
            .find(end)
            .map_or(text.len(), |at| from + at + end.len())
    };
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return up_to("*/", 2);
    }
    if let Some(string) = text.strip_prefix('"') {
        return 1 + quoted(string, '"');
    }
    // A character, or the name of a lifetime.
    if let Some(quote) = text.strip_prefix('\'') {
        let mut chars = quote.chars();
        let is_character = chars.next() == Some('\\') || chars.next() == Some('\'');
        return if is_character { 1 + quoted(quote, '\'') } else { 0 };
    }
    // A raw string: between as many hashes on both sides.
    let hashes = text
        .strip_prefix('r')
        .map_or("", |raw| &raw[..raw.len() - raw.trim_start_matches('#').len()]);
    let is_raw = text.starts_with('r') && text[1 + hashes.len()..].starts_with('"');
    // `br` and `cr` start one too.
    let is_in_a_name = before.is_some_and(|c| is_of_a_name(c) && !matches!(c, 'b' | 'c'));
    match is_raw && !is_in_a_name {
        true => up_to(&format!("\"{hashes}"), 2 + hashes.len()),
        false => 0,
    }
}

/// How many bytes up to the end of this quote, that included.
fn quoted(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    let end = text.find(|c| {
        let ends = c == quote && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 1)
}

#[test]
fn functions_are_found_and_their_lines_counted() {
    let text = r###"
        // fn not_this() {
        const WAT: &str = r#"fn nor_this() { "#;
        trait T { fn declared(&self) -> [u8; { 1 + 1 }]; type F = fn (); }
        unsafe fn one<'a>(x: &'a [u8; { 2 }]) where T: Fn(u8) {
            let c = ['{', '\'', '"', '\u{7b}']; /* } */
            let s = "\"}";
            fn inner() {}
            let f: fn(u8) = |c| if c == b'}' { br"}" };
        }
        fn last() -> u8 { 1 }"###;
    let found = functions(text);
    let expected = [("one", 6), ("inner", 1), ("last", 1)];
    assert_eq!(found, expected.map(|(name, lines)| (name.to_owned(), lines)));
}
