/* Decodes a rectangle of a JPEG and nothing else; called by region.py, which compiles it.

   libjpeg-turbo has to undo the entropy coding of all rows above the rectangle, since each block
   builds on the one before, but it transforms, upsamples and converts only what is asked for, and
   rows below are never looked at. The pixels are those of a decode of the whole, to the bit: same
   DCT (islow), same fancy upsampling.

   Nothing is tolerated in here: whatever libjpeg-turbo so much as warns of is refused, and the
   caller decodes the whole. */

#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#ifndef LIBJPEG_TURBO_VERSION
#error "the JPEG library is not libjpeg-turbo"
#endif

/* Pixels to both sides that are decoded too. Fancy upsampling looks at two of them, and is not done
   to less than five. */
#define MARGIN 8

#define ROWS 8 /* are asked for at a time; the library gives as many as it has at hand */

struct refusal {
  struct jpeg_error_mgr manager; /* first, so that the library's pointer to it is one to this */
  jmp_buf escape;
};

static void refuse(j_common_ptr info) { longjmp(((struct refusal *)info->err)->escape, 1); }

static void refuse_warnings(j_common_ptr info, int level) {
  if (level < 0) refuse(info); /* others are traces */
}

/* Whether nothing but entropy-coded data and the end of the image follows.

   A file that is cut short, or has anything else there, may turn out unreadable when it is decoded
   to its end. So whether a sample is readable does not depend on the rectangle that was drawn. */
static int ends_well(j_decompress_ptr info) {
  const JOCTET *at = info->src->next_input_byte, *end = at + info->src->bytes_in_buffer;
  int marker = info->unread_marker;
  while (marker == 0 || (marker >= JPEG_RST0 && marker <= JPEG_RST0 + 7)) {
    at = memchr(at, 0xFF, end - at);
    while (at != NULL && at < end && *at == 0xFF) at++;
    if (at == NULL || at == end) return 0;
    marker = *at++; /* 0 if the 0xFF was data */
  }
  return marker == JPEG_EOI;
}

/* Decode the rectangle to RGB.

   data, size: the file.
   left, top, width, height: the rectangle, pixels.
   out: height x width x 3 bytes.
   Returns 1, or 0 if the image has to be decoded as a whole; then what is in `out` means nothing. */
int decode_region(const unsigned char *data, unsigned long size, unsigned left, unsigned top,
                  unsigned width, unsigned height, unsigned char *out) {
  struct jpeg_decompress_struct info;
  struct refusal error;
  info.err = jpeg_std_error(&error.manager);
  error.manager.error_exit = refuse;
  error.manager.emit_message = refuse_warnings;
  if (setjmp(error.escape)) {
    jpeg_destroy_decompress(&info);
    return 0;
  }
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, data, size);
  jpeg_read_header(&info, TRUE);

  int fits = width > 0 && height > 0 && left < info.image_width && top < info.image_height &&
             width <= info.image_width - left && height <= info.image_height - top;
  int plain = info.jpeg_color_space == JCS_YCbCr || info.jpeg_color_space == JCS_GRAYSCALE ||
              info.jpeg_color_space == JCS_RGB;
  /* Several scans (progressive) are decoded whole in any case, and take memory for it. */
  if (!fits || !plain || jpeg_has_multiple_scans(&info)) refuse((j_common_ptr)&info);

  info.out_color_space = JCS_RGB;
  info.dct_method = JDCT_ISLOW;
  info.do_fancy_upsampling = TRUE;
  jpeg_start_decompress(&info);

  /* The library moves the left edge to that of a block, and puts it into `begin`. */
  JDIMENSION begin = left > MARGIN ? left - MARGIN : 0, end = left + width + MARGIN;
  JDIMENSION span = (end < info.image_width ? end : info.image_width) - begin;
  if (span < info.image_width) jpeg_crop_scanline(&info, &begin, &span);

  JSAMPARRAY rows =
      info.mem->alloc_sarray((j_common_ptr)&info, JPOOL_IMAGE, info.output_width * 3, ROWS);
  if (top > 0 && jpeg_skip_scanlines(&info, top) != top) refuse((j_common_ptr)&info);
  for (unsigned y = 0; y < height;) {
    unsigned count = jpeg_read_scanlines(&info, rows, height - y < ROWS ? height - y : ROWS);
    if (count == 0) refuse((j_common_ptr)&info);
    for (unsigned each = 0; each < count; each++, y++)
      memcpy(out + (size_t)y * width * 3, rows[each] + (size_t)(left - begin) * 3, (size_t)width * 3);
  }
  int whole = ends_well(&info);
  jpeg_destroy_decompress(&info);
  return whole;
}
