// Runs kernels on the numbers it reads: how tests reach an instruction set that this machine has to emulate.
//
// stdin, little-endian, again and again: the operation, its int64 sizes, its arrays. stdout: the results, raw.
//   1 ternary   groups, count, stride; tile, codes, sums (int32)         -> products (int32)
//   2 int8      outliers taken or not; the same
//   3 quantize  size, bits, normed; x (float), weight (float, if normed) -> codes, step (float), sum (int32)
//   4 gate      size; gate (float), up (float)                           -> hidden (float)
//   5 attend    rows, size, keys; queries, keys, values (float), visible (int64) -> out (float), rows padded
//   6 gelu      size; x (float)                                          -> y (float)
//   7 norm      size; x, weight, bias (float)                            -> y (float)
//   8 row       ternary or not, tiles, groups, stride; tiles, codes, sums of two rows -> products (int32)
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../runtime/native/kernels.h"

namespace {

template <typename T>
T* read_array(int64_t count) {
  T* data = static_cast<T*>(aligned_alloc(64, (static_cast<size_t>(count) * sizeof(T) / 64 + 1) * 64));
  if (data == nullptr || fread(data, sizeof(T), static_cast<size_t>(count), stdin) != static_cast<size_t>(count))
    exit(2);
  return data;
}

int64_t read_size() {
  int64_t* data = read_array<int64_t>(1);
  const int64_t size = *data;
  free(data);
  return size;
}

template <typename T>
void write_array(const T* data, int64_t count) {
  fwrite(data, sizeof(T), static_cast<size_t>(count), stdout);
}

}  // namespace

int main(int count, char**) {
  using namespace embernet;
  if (count > 1) {  // any argument: list the instruction sets of this machine
    puts(supported_kernels());
    return 0;
  }
  const Kernels* kernels = choose_kernels();
  if (kernels == nullptr) return 1;
  int64_t operation;
  while (fread(&operation, sizeof operation, 1, stdin) == 1) {
    if (operation == 1 || operation == 2) {
      const bool take = operation == 2 && read_size() != 0;
      const int64_t groups = read_size(), count = read_size(), stride = read_size();
      uint8_t* tile = read_array<uint8_t>(groups * kGroupBytes);
      int8_t* codes = read_array<int8_t>(count * stride);
      int32_t* products = static_cast<int32_t*>(malloc(sizeof(int32_t) * static_cast<size_t>(count * kTileRows)));
      int32_t* sums = read_array<int32_t>(count);
      Row* rows = static_cast<Row*>(malloc(sizeof(Row) * static_cast<size_t>(count)));
      Outlier* outliers = static_cast<Outlier*>(malloc(sizeof(Outlier) * static_cast<size_t>(count * groups)));
      for (int64_t m = 0; m < count; ++m) {
        rows[m] = {1.0f, sums[m]};
        if (take && kernels->take_outliers != nullptr)
          kernels->take_outliers(codes + m * stride, groups * kInt8Inputs, &rows[m], outliers + m * groups);
      }
      if (operation == 1)
        kernels->ternary(tile, groups, codes, stride, rows, count, products);
      else
        kernels->int8(reinterpret_cast<int8_t*>(tile), groups, codes, stride, rows, count, products);
      write_array(products, count * kTileRows);
      free(outliers);
      free(rows);
      free(sums);
      free(products);
      free(codes);
      free(tile);
    } else if (operation == 3) {
      const int64_t size = read_size(), bits = read_size(), normed = read_size();
      float* x = read_array<float>(size);
      float* weight = normed != 0 ? read_array<float>(size) : nullptr;
      int8_t* codes = static_cast<int8_t*>(malloc(static_cast<size_t>(size + kCodeAlignment)));
      if (normed != 0) kernels->normalize(x, size, {1e-5f, 100.0f, 10.0f}, x);
      const Row row = kernels->quantize(x, weight, size, {bits, 128.0f, 1e-5f}, codes);
      write_array(codes, size);
      write_array(&row.step, 1);
      write_array(&row.sum, 1);
      free(codes);
      free(weight);
      free(x);
    } else if (operation == 5) {
      const int64_t rows = read_size(), size = read_size(), count = read_size();
      float* queries = read_array<float>(rows * size);
      float* keys = read_array<float>(count * size);
      float* values = read_array<float>(count * size);
      int64_t* visible = read_array<int64_t>(rows);
      const int64_t out_size = rows * attention_padded(size);
      const int64_t scratch_size = attention_scratch(rows, size, count);
      float* scratch = static_cast<float*>(malloc(sizeof(float) * static_cast<size_t>(scratch_size)));
      float* out = static_cast<float*>(malloc(sizeof(float) * static_cast<size_t>(out_size)));
      kernels->attend({queries, keys, values, size, size, size, rows, visible}, scratch, out);
      write_array(out, out_size);
      free(out);
      free(scratch);
      free(visible);
      free(values);
      free(keys);
      free(queries);
    } else if (operation == 6 || operation == 7) {
      const int64_t size = read_size();
      float* x = read_array<float>(size);
      if (operation == 6) {
        kernels->gelu(x, size, x);
      } else {
        float* weight = read_array<float>(size);
        float* bias = read_array<float>(size);
        float* scratch = static_cast<float*>(malloc(sizeof(float) * static_cast<size_t>(size)));
        kernels->layer_norm(x, weight, bias, size, 1e-6f, scratch, x);
        free(scratch);
        free(bias);
        free(weight);
      }
      write_array(x, size);
      free(x);
    } else if (operation == 8) {
      const bool ternary = read_size() != 0;
      const int64_t tiles = read_size(), groups = read_size(), stride = read_size();
      uint8_t* tile = read_array<uint8_t>(tiles * groups * kGroupBytes);
      int8_t* codes = read_array<int8_t>(2 * stride);
      int32_t* sums = read_array<int32_t>(2);
      int32_t* products = static_cast<int32_t*>(malloc(sizeof(int32_t) * static_cast<size_t>(tiles * kTileRows)));
      const RowPair rows = {{codes, codes + stride}, {sums[0], sums[1]}};
      if (ternary)
        kernels->ternary_row(tile, tiles, groups, rows, products);
      else
        kernels->int8_row(reinterpret_cast<int8_t*>(tile), tiles, groups, rows, products);
      write_array(products, tiles * kTileRows);
      free(products);
      free(sums);
      free(codes);
      free(tile);
    } else {
      const int64_t size = read_size();
      float* gate = read_array<float>(size);
      float* up = read_array<float>(size);
      kernels->gate(gate, up, size, 20.0f, 1000.0f, gate);
      write_array(gate, size);
      free(up);
      free(gate);
    }
    fflush(stdout);
  }
  return 0;
}
