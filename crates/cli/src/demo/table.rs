//! A table a person likes to read.

use std::fmt;
use std::time::Duration;

/// A title, and rows of what, how much, and a remark.
pub(super) struct Table {
    title: &'static str,
    rows: Vec<[String; 3]>,
}

impl Table {
    pub(super) fn new(title: &'static str) -> Table {
        Table {
            title,
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, what: &str, value: String, remark: &str) {
        self.rows.push([what.to_owned(), value, remark.to_owned()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for [what, value, remark] in &self.rows {
            writeln!(f, "  {what:<38} {value:>12}   {remark}")?;
        }
        writeln!(f)
    }
}

/// A time with three significant digits and its unit.
pub(super) fn duration(time: Duration) -> String {
    let nanos = time.as_nanos() as f64;
    let (value, unit) = match nanos {
        n if n < 1e3 => (n, "ns"),
        n if n < 1e6 => (n / 1e3, "us"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    let digits = if value < 10.0 {
        2
    } else {
        usize::from(value < 100.0)
    };
    // Nanoseconds are whole numbers already.
    let digits = if unit == "ns" { 0 } else { digits };
    format!("{value:.digits$} {unit}")
}

/// A size with its unit.
pub(super) fn bytes(count: u64) -> String {
    if count < 1024 {
        format!("{count} B")
    } else {
        format!("{:.2} KiB", count as f64 / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_units_and_few_digits() {
        assert_eq!(duration(Duration::from_nanos(7)), "7 ns");
        assert_eq!(duration(Duration::from_nanos(1_234)), "1.23 us");
        assert_eq!(duration(Duration::from_micros(45_678)), "45.7 ms");
        assert_eq!(duration(Duration::from_millis(123_456)), "123 s");
        assert_eq!(bytes(100), "100 B");
        assert_eq!(bytes(4608), "4.50 KiB");
    }

    #[test]
    fn rows_line_up() {
        let mut table = Table::new("title");
        table.row("short", "1".into(), "remark");
        table.row("a longer one", "22".into(), "remark");
        let text = table.to_string();
        let columns: Vec<_> = text.lines().filter_map(|line| line.find("remark")).collect();
        assert_eq!(columns.len(), 2);
        assert_eq!(columns[0], columns[1]);
    }
}
