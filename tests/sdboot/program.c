/* A kernel's stand-in: says which one it is and what the loader tells in its EFI variables, then ends QEMU.
   No library, no relocation, no global that is written: linked flat and wrapped in a PE file. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
#define EFIAPI __attribute__((ms_abi))
/* A function of a table, by its place in it (UEFI 2.10, chapters 4 and 8). */
#define AT(table, offset) (*(void **)((u8 *)(table) + (offset)))
typedef u64 EFIAPI (*call_var)(void *, void *, u32 *, u64 *, void *);
enum { RUNTIME = 88, GET_VARIABLE = 72, LIMIT = 3000 };

static void put(char c) { __asm__ volatile("outb %0,%1" ::"a"(c), "Nd"((u16)0xe9)); }

__attribute__((section(".text.first"))) u64 EFIAPI program(void *image, void *system) {
  (void)image;
  call_var get = (call_var)AT(AT(system, RUNTIME), GET_VARIABLE);
  u8 loader[16] = {0x82, 0xb0, 0x67, 0x4a, 0x4c, 0x0a, 0xcf, 0x41, 0xb6, 0xc7, 0x44, 0x0b, 0x29, 0xbb, 0x8c, 0x4f};
  static const char names[] = NAME "\0LoaderInfo\0LoaderEntrySelected\0LoaderBootCountPath\0LoaderEntries\0"
                                   "LoaderEntryOneShot\0LoaderEntryDefault\0";
  u16 name[40], data[LIMIT / 2];
  int is_first = 1;
  for (const char *s = names; *s; is_first = 0) {
    u32 length = 0;
    u64 size = LIMIT;
    if (is_first) { const char *word = "BOOTED="; while (*word) put(*word++); }
    for (; s[length]; length++) { name[length] = s[length]; put(s[length]); }
    name[length] = 0;
    s += length + 1;
    if (!is_first && !get(name, loader, 0, &size, data)) {
      put('=');
      for (u64 i = 0; i + 1 < size / 2; i++) put(data[i] ? (char)data[i] : ' ');
    }
    put('\n');
  }
  __asm__ volatile("outb %0,%1" ::"a"((u8)1), "Nd"((u16)0xf4));
  for (;;) __asm__ volatile("hlt");
}
