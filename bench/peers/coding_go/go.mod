module logd.bench/coding

go 1.21

require github.com/klauspost/reedsolomon v1.12.4
