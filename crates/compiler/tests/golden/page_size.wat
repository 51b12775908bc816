;; settings: custom-page-sizes
(module
  (memory $m 1 (pagesize 1))
  (func $load (param i32) (result i32) (i32.load $m offset=16 (local.get 0)))
  (func $size (result i32) (memory.size $m))
  (func $grow (param i32) (result i32) (memory.grow $m (local.get 0))))
