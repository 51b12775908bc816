(module
  (import "host" "imported" (global $imported (mut i32)))
  (global $defined (mut i64) (i64.const 1))
  (global $constant i32 (i32.const 7))
  (func $local (param i32) (result i32) (local.tee 0 (i32.const 1)))
  (func $get (result i32) (global.get $imported))
  (func $set (param i64) (global.set $defined (local.get 0)))
  (func $known (result i32) (global.get $constant)))
