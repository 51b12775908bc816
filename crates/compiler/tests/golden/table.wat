(module
  (table $f 4 funcref)
  (table $fixed 8 8 externref)
  (func $get (param i32) (result funcref) (table.get $f (local.get 0)))
  (func $set (param i32 externref) (table.set $fixed (local.get 0) (local.get 1)))
  (func $size (result i32) (table.size $f))
  (func $grow (param i32) (result i32) (table.grow $f (ref.null func) (local.get 0))))
