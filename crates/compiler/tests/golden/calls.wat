(module
  (import "host" "f" (func $import (param i64) (result i64)))
  (type $t (func (param i32) (result i32)))
  (table 4 funcref)
  (func $callee (param i32) (result i32) (local.get 0))
  (func $direct (result i32) (call $callee (i32.const 1)))
  (func $imported (result i64) (call $import (i64.const 1)))
  (func $indirect (param i32) (result i32)
    (call_indirect (type $t) (i32.const 1) (local.get 0))))
