// Loads the library of a wheel, as ONNX Runtime does, and prints the instruction sets it would use.
#include <dlfcn.h>
#include <stdio.h>

int main(int, char** arguments) {
  void* library = dlopen(arguments[1], RTLD_NOW);
  if (library == nullptr || dlsym(library, "RegisterCustomOps") == nullptr) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  puts(reinterpret_cast<const char* (*)()>(dlsym(library, "embernet_supported_isas"))());
  return 0;
}
