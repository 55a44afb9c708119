/* Asks firmware or shim about every file \t\cNNN.efi and writes the answers to QEMU's debug port.
   No library, no relocation, no global that is written: linked flat and wrapped in a PE file by files.py. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
#define EFIAPI __attribute__((ms_abi))
/* A function of a table, by its place in it (UEFI 2.10, chapters 4, 7, 8, 9, 13). */
#define AT(table, offset) (*(void **)((u8 *)(table) + (offset)))
typedef u64 EFIAPI (*call1)(void *);
typedef u64 EFIAPI (*call3)(void *, void *, void *);
typedef u64 EFIAPI (*call4)(u64, u64, u64, void *);
typedef u64 EFIAPI (*call5)(void *, void *, void *, u64, u64);
typedef u64 EFIAPI (*call_var)(void *, void *, u32 *, u64 *, void *);
typedef u64 EFIAPI (*call_load)(u8, void *, void *, void *, u64, void **);
typedef u64 (*call_verify)(void *, u32); /* shim's own convention is that of System V */

enum { BOOT = 96, RUNTIME = 88, ALLOCATE_POOL = 64, HANDLE_PROTOCOL = 152, LOAD_IMAGE = 200, UNLOAD_IMAGE = 224,
       SET_WATCHDOG = 256, LOCATE_PROTOCOL = 320, GET_VARIABLE = 72, RESET = 104, DEVICE = 24, OPEN_VOLUME = 8,
       OPEN = 8, CLOSE = 16, READ = 32, LIMIT = 4 << 20 };

static void put(char c) { __asm__ volatile("outb %0,%1" ::"a"(c), "Nd"((u16)0xe9)); }
static void text(const char *s) { while (*s) put(*s++); }
static void hex(u64 v) { for (int i = 60; i >= 0; i -= 4) { int d = v >> i & 15; put(d < 10 ? '0' + d : 'a' + d - 10); } }

__attribute__((section(".text.first"))) u64 EFIAPI program(void *image, void *system) {
  void *boot = AT(system, BOOT), *runtime = AT(system, RUNTIME);
  u8 global[16] = {0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0, 0xe0, 0x98, 3, 0x2b, 0x8c};
  u8 loaded[16] = {0xa1, 0x31, 0x1b, 0x5b, 0x62, 0x95, 0xd2, 0x11, 0x8e, 0x3f, 0, 0xa0, 0xc9, 0x69, 0x72, 0x3b};
  u8 volume[16] = {0x22, 0x5b, 0x4e, 0x96, 0x59, 0x64, 0xd2, 0x11, 0x8e, 0x39, 0, 0xa0, 0xc9, 0x69, 0x72, 0x3b};
  u8 device[16] = {0x91, 0x6e, 0x57, 0x09, 0x3f, 0x6d, 0xd2, 0x11, 0x8e, 0x39, 0, 0xa0, 0xc9, 0x69, 0x72, 0x3b};
  u8 shim[16] = {0x50, 0xab, 0x5d, 0x60, 0x46, 0xe0, 0, 0x43, 0xab, 0xb6, 0x3d, 0xd8, 0x10, 0xdd, 0x8b, 0x23};
  u16 variable[11] = {'S', 'e', 'c', 'u', 'r', 'e', 'B', 'o', 'o', 't', 0};
  u16 name[12] = {'\\', 't', '\\', 'c', '0', '0', '0', '.', 'e', 'f', 'i', 0};
  u8 secure = 9, path[512];
  u64 size = 1;
  void *self = 0, *system_volume = 0, *root = 0, *prefix = 0, *lock = 0, *buffer = 0;

  ((call4)AT(boot, SET_WATCHDOG))(0, 0, 0, 0);
  ((call_var)AT(runtime, GET_VARIABLE))(variable, global, 0, &size, &secure);
  text("SECURE "); hex(secure); text("\n");
  ((call3)AT(boot, LOCATE_PROTOCOL))(shim, 0, &lock);
  text("SHIM "); hex(lock != 0); text("\n");
  ((call3)AT(boot, HANDLE_PROTOCOL))(image, loaded, &self);
  ((call3)AT(boot, HANDLE_PROTOCOL))(AT(self, DEVICE), volume, &system_volume);
  ((call3)AT(boot, HANDLE_PROTOCOL))(AT(self, DEVICE), device, &prefix);
  ((call3)AT(system_volume, OPEN_VOLUME))(system_volume, &root, 0);
  ((call3)AT(boot, ALLOCATE_POOL))((void *)4, (void *)(u64)LIMIT, &buffer);

  /* The volume's path, then the file's name, then the end. */
  u32 length = 0;
  for (u8 *node = prefix; node[0] != 0x7f && length < 400; node += node[2] | node[3] << 8)
    for (u32 i = 0; i < (u32)(node[2] | node[3] << 8); i++) path[length++] = node[i];
  u32 at = length + 4;
  path[length++] = 4; path[length++] = 4; path[length++] = 4 + sizeof name; path[length++] = 0;
  length += sizeof name;
  path[length++] = 0x7f; path[length++] = 0xff; path[length++] = 4; path[length++] = 0;

  for (u32 i = 0; i < 1000; i++) {
    void *file = 0, *started = 0;
    u64 status;
    name[4] = '0' + i / 100; name[5] = '0' + i / 10 % 10; name[6] = '0' + i % 10;
    if (((call5)AT(root, OPEN))(root, &file, name, 1, 0)) break;
    size = LIMIT;
    ((call3)AT(file, READ))(file, &size, buffer);
    ((call1)AT(file, CLOSE))(file);
    if (lock) {
      status = ((call_verify)AT(lock, 0))(buffer, size);
    } else {
      for (u32 k = 0; k < sizeof name; k++) path[at + k] = ((u8 *)name)[k];
      status = ((call_load)AT(boot, LOAD_IMAGE))(0, image, path, 0, 0, &started);
      if (started) ((call1)AT(boot, UNLOAD_IMAGE))(started);
    }
    text("FILE "); put(name[4]); put(name[5]); put(name[6]); put(' '); hex(status); text("\n");
  }
  text("END\n");
  ((call4)AT(runtime, RESET))(2, 0, 0, 0);
  return 0;
}
