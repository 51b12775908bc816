(module
  (memory $a 1)
  (memory $b 1)
  (func $load (param i32) (result i32) (i32.load $b offset=16 (local.get 0)))
  (func $store (param i32 i64) (i64.store $b (local.get 0) (local.get 1)))
  (func $size (result i32) (memory.size $b))
  (func $fill (param i32 i32 i32) (memory.fill $b (local.get 0) (local.get 1) (local.get 2)))
  (func $copy (param i32 i32 i32) (memory.copy $b $a (local.get 0) (local.get 1) (local.get 2))))
