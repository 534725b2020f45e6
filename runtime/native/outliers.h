// Groups of codes that are taken out of a row, so that a kernel can add the products of the others in int16; outliers
// it multiplies one by one. They are few: the codes of a row are scaled by the largest, so most are small.
#pragma once

#include <string.h>

#include "kernels.h"

namespace embernet {

// A row is not worth more outliers than this part of its groups.
constexpr int64_t kGroupsPerOutlier = 10;

// Leaves in a row only codes of which `fits` says that the products of each `kUnit` groups can be added. False, and the
// row as it was, if that takes too many outliers.
template <int kUnit, class Fits>
static bool take_outliers(int8_t* codes, int64_t size, Row* row, Outlier* outliers, const Fits& fits) {
  const int64_t most = size / (kInt8Inputs * kGroupsPerOutlier);
  int64_t count = 0;
  for (int64_t unit = 0; unit < size && count <= most; unit += kUnit * kInt8Inputs)
    for (int64_t i = unit; !fits(codes + unit); i += kInt8Inputs) {
      Outlier& outlier = outliers[count++];
      outlier.group = static_cast<int32_t>(i / kInt8Inputs);
      memcpy(outlier.codes, codes + i, kInt8Inputs);
      memset(codes + i, 0, kInt8Inputs);
    }
  if (count > most) {
    for (int64_t i = 0; i < count; ++i) memcpy(codes + outliers[i].group * kInt8Inputs, outliers[i].codes, kInt8Inputs);
    return false;
  }
  for (int64_t i = 0; i < count; ++i)
    for (const int8_t code : outliers[i].codes) row->sum -= code;
  row->unit = kUnit;
  row->outliers = outliers;
  row->num_outliers = count;
  return true;
}

// Calls block(how many, their codes, their products) for the rows of a unit, kRows at once as long as there are so many,
// the rest one by one.
template <int kRows, class Block>
static void for_rows_of_unit(int64_t unit, const int8_t* codes, int64_t stride, const Row* rows, int64_t count,
                             int32_t* products, const Block& block) {
  const int8_t* a[kRows];
  int32_t* p[kRows];
  int found = 0;
  for (int64_t m = 0; m < count; ++m) {
    if (rows[m].unit != unit) continue;
    a[found] = codes + m * stride;
    p[found++] = products + m * kTileRows;
    if (found < kRows) continue;
    block(found, a, p);
    found = 0;
  }
  for (int i = 0; i < found; ++i) block(1, a + i, p + i);
}

}  // namespace embernet
