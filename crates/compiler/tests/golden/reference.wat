(module
  (func $f (export "f"))
  (func $func (result funcref) (ref.func $f))
  (func $null (result externref) (ref.null extern))
  (func $is_null (param funcref) (result i32) (ref.is_null (local.get 0))))
